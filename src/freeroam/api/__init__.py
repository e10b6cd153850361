"""Delivery over HTTP: translates, decides nothing."""
