"""What answers: the contract of a model and the built-in ones."""
