"""Guesses of what a model writes next, verified many at a time: they change a reply's speed, not the reply."""
