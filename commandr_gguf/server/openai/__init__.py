"""OpenAI's interface: what its clients send and what they want to read."""
