"""How many tokens of prompts one step may evaluate, so that replies being written go on."""

from __future__ import annotations

WEIGHT = 0.2
"""Of the newest measurement in a mean."""


class PrefillBudget:
    """Learns what steps cost and lets a step with prompts take a few times what it takes without.

    Args:
        n_most: tokens, when no reply is being written.
        n_least: tokens in any case.
        slowdown: how many times as long as without prompts a step may take.
    """

    def __init__(self, n_most: int = 512, *, n_least: int = 16, slowdown: float = 2.5) -> None:
        self._n_most = n_most
        self._n_least = min(n_least, n_most)
        self._slowdown = slowdown
        self._decode_seconds: float | None = None
        self._token_seconds: float | None = None

    def tokens(self, n_writing: int) -> int:
        """For the next step, beside `n_writing` replies that are being written."""
        if n_writing == 0:
            return self._n_most
        if self._decode_seconds is None or self._token_seconds is None:
            return self._n_least
        n = (self._slowdown - 1) * self._decode_seconds / max(self._token_seconds, 1e-9)
        return max(self._n_least, min(int(n), self._n_most))

    def add(self, n_writing: int, n_tokens: int, seconds: float) -> None:
        """Count a step with `n_writing` replies and `n_tokens` of prompts."""
        if n_tokens == 0:
            self._decode_seconds = _mean(self._decode_seconds, seconds)
            return
        rest = seconds - (self._decode_seconds or 0.0) if n_writing else seconds
        self._token_seconds = _mean(self._token_seconds, max(rest, 0.0) / n_tokens)


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else mean + WEIGHT * (value - mean)
