"""The load client: asks a server many questions at once, accounts for every token, and says what it measured."""
