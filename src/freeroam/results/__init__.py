"""Finished answers: committed first, then published."""
