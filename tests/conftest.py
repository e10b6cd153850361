"""What every test sees: the fixtures of the tiers live beside their tests."""
