"""Child processes and the wire to them."""
