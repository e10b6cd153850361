"""Video in: a source gives frames until it ends or raises."""
