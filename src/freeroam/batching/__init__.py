"""Which requests are put to a model together, and when."""
