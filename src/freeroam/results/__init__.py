"""What was answered: committed in order, then told to those who listen."""
