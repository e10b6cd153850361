"""Standing wishes and what keeps them running."""
