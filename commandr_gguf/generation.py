"""A reply: its pieces and the whole of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from commandr_gguf.sampling import Logprobs
from commandr_gguf.usage import FinishReason, Timings, Usage


@dataclass(frozen=True)
class Piece:
    """A part of a reply."""

    text: str
    """Whole characters; may be empty in the last piece."""
    tokens: list[int]
    """The tokens behind the text, end tokens left out."""
    logprobs: list[Logprobs]
    """One for each token, when asked for."""
    finish_reason: FinishReason | None
    """Set in the last piece."""


@dataclass
class Generation:
    """A reply."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    """The tokens behind the text, end tokens left out; with a stop string, up to the token that completed it."""
    finish_reason: FinishReason | None = None
    """None while the reply is unfinished."""
    logprobs: list[Logprobs] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
