"""What a generation took: numbers of tokens, seconds, and why it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]
"""stop: an end token or a stop string; length: max_tokens or the context;
cancelled: cancel(), close() or a progress function."""


@dataclass
class Usage:
    """Numbers of tokens."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, those that the session held already."""
    completion_tokens: int = 0
    drafted_tokens: int = 0
    """Guesses of a drafter that were evaluated."""
    accepted_tokens: int = 0
    """Of the guesses, those that became part of the reply."""


@dataclass
class Timings:
    """Seconds in the drafter, the model and the sampler, without the time that the caller takes between pieces."""

    prefill_seconds: float = 0.0
    """The evaluation of the prompt, after which the first token is known."""
    decode_seconds: float = 0.0
    """All later evaluations."""
    decode_tokens: int = 0
    """Tokens that the later evaluations gave, end tokens included."""
    prefill_tokens: int = 0
    """Tokens of the prompt that were computed."""
    decode_evaluations: int = 0
    """How many they were: as many as decode_tokens where nothing is drafted or forced."""

    @property
    def prefill_tokens_per_second(self) -> float:
        """0 when nothing was computed."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """0 when nothing was computed."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0
