"""Conversations: messages to prompts to token ids. messages, prompt and tokens run without a model."""
