"""Cohere's interface, version 1 and 2, as far as a local model can answer it."""
