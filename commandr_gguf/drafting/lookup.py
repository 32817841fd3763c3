"""Drafts from the text itself: what followed when the last tokens stood there before."""

from __future__ import annotations

from collections.abc import Sequence

from commandr_gguf.drafting.drafter import Draft, Limit, Source

# The longer the match, the better the guess: each length is a source of its own.
_SOURCES = {
    3: Source("lookup of 3 tokens", 0.6),
    2: Source("lookup of 2 tokens", 0.4),
    1: Source("lookup of 1 token", 0.2),
}


class PromptLookup:
    """Finds the last 3, 2 or 1 tokens in prompt and reply, and drafts what followed their last occurrence.

    Each new token costs the same, however long the prompt is; the first call reads all of it.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._tokens: list[int] = []
        self._ends: dict[int, dict[tuple[int, ...], int]] = {n: {} for n in _SOURCES}
        """For each length: token sequence -> where its last occurrence ends, the one at the very end left out."""

    def draft(self, tokens: Sequence[int], limit: Limit) -> Draft | None:
        """See `Drafter.draft`."""
        self._read(tokens)
        held = self._tokens
        for n, source in _SOURCES.items():
            end = self._ends[n].get(tuple(held[-n:])) if len(held) > n else None
            if end is not None:
                n_draft = limit(source)
                # A match that reaches into its own continuation goes on in a circle.
                guess = [held[end + i % (len(held) - end)] for i in range(n_draft)]
                return Draft(guess, source) if guess else None
        return None

    def _read(self, tokens: Sequence[int]) -> None:
        n_held = len(self._tokens)
        if len(tokens) < n_held or (n_held and tokens[n_held - 1] != self._tokens[-1]):  # another text
            self._forget()
            n_held = 0
        held = self._tokens
        held.extend(tokens[n_held:])
        for n, ends in self._ends.items():
            for end in range(max(n, n_held), len(held)):
                ends[tuple(held[end - n : end])] = end
