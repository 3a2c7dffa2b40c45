"""Samples of a model's use, and the batches that they are run in."""
