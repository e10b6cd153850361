"""The nouns of the domain: immutable, without input or output, importing nothing else of ours."""
