"""Hugging Face repositories, read by ranges."""
