"""What a drafter is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Source:
    """Where drafts come from. What is accepted is counted for each source by itself."""

    name: str
    acceptance: float = 0.7
    """The part of its tokens that is expected to be right before any was verified, 0 to 1."""
    cost: float = 0.0
    """Of drafting a token, in evaluations of one token by the model whose reply is drafted."""


@dataclass(frozen=True)
class Draft:
    """Guesses of the next tokens."""

    tokens: list[int]
    """At least one."""
    source: Source


Limit = Callable[[Source], int]
"""The most tokens that a source is to draft now; 0 while its drafts do not pay. To be asked once for a draft."""


GoOn = Callable[[int, int], object]
"""Called with the tokens that a drafter has computed and is to compute; returning False ends it with CancelledError."""


class Drafter(Protocol):
    """Guesses how a sequence goes on. One object serves one generation."""

    def draft(self, tokens: Sequence[int], limit: Limit, go_on: GoOn | None = None, /) -> Draft | None:
        """Guess what follows `tokens`, the prompt and the reply so far; None for no guess. Long work calls `go_on`."""
