"""The HTTP server: one engine that computes for many requests at once, and the interfaces in front of it."""
