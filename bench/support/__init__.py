"""What the benchmarks share: generated checkpoints, and processes timed side by side."""
