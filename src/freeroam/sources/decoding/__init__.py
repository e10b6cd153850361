"""Bytes in, sampled frames out, in child processes that may be killed."""
