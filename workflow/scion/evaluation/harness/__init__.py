"""Public benchmarks: their harnesses run in envs/evaluate and ask the server of a stage."""
