"""What a release can do and how fast: numbers with their intervals."""
