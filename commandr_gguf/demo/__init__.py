"""A small Command-R checkpoint that really answers, how it was made, and what shows it at work."""
