"""Replies without a format."""

from __future__ import annotations

from commandr_gguf.chat.events import Part, Text


class PlainReply:
    """Parser of replies that are visible text as they are, white space included."""

    def write(self, text: str) -> list[Part]:
        """Add a piece of the reply; returns it as text."""
        return [Text(text)] if text else []

    def flush(self, *, cut: bool = False) -> list[Part]:  # noqa: ARG002  # as the other parsers have it
        """Nothing is held back."""
        return []
