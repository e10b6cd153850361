"""What several main processes must tell each other."""
