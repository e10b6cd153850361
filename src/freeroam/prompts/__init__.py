"""What is asked: prompts and their versions."""
