"""The door that OpenAI's clients know: models, chat completions and completions below /v1."""
