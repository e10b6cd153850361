"""Standing wishes: what is watched, asked and kept, and what keeps it running."""
