"""Which frames become a question."""
