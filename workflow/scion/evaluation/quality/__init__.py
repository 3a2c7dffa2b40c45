"""How near a release is to its source, on held-out tokens."""
