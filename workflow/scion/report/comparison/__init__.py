"""What differs between two releases, and by how much."""
