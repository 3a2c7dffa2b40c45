"""Quantizing one decoder layer after another, with ModelOpt's own pieces."""
