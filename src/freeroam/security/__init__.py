"""Who may call, and what may be opened."""
