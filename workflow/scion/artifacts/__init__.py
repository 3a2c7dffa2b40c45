"""Folders with a manifest: what a file is, and what it was made from."""
