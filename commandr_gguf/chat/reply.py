"""A finished reply in its parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.visible import Citation, Source
from commandr_gguf.usage import FinishReason, Timings, Usage


class TokenLogprobs(Protocol):
    """Natural logarithms of the probabilities of one token and of the most likely ones, see `sampling.Logprobs`."""

    @property
    def token(self) -> int:
        """The token that was chosen."""

    @property
    def logprob(self) -> float:
        """Its own."""

    @property
    def top(self) -> list[tuple[int, float]]:
        """The most likely tokens in falling order."""


@dataclass
class Reply:
    """What a model replied. `str()` gives its visible text."""

    text: str = ""
    """What a reader is to see."""
    citations: list[Citation] = field(default_factory=list)
    """Spans of `text` in the order of their starts; the longer first where two start together."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    """In the order in which the model wrote them; none of them stands for "no tool"."""
    plan: str = ""
    """What the model says to itself: a plan, a reflection, its reasoning."""
    search_queries: list[str] = field(default_factory=list)
    documents_relevant: list[int] = field(default_factory=list)
    """Documents that the model found relevant."""
    documents_cited: list[int] = field(default_factory=list)
    """Documents that the model announced to cite, which need not be those of `citations`."""
    answer: str | None = None
    """The answer without citations that came before the one with them; None when there was none."""
    finish_reason: FinishReason | None = None
    """None while the reply is unfinished."""
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    raw_text: str = ""
    """All that the model wrote, stop strings and incomplete calls included. It begins with what the prompt ended with,
    where that was the beginning of the reply."""
    tokens: list[int] = field(default_factory=list)
    """The tokens that the model wrote, end tokens left out."""
    logprobs: Sequence[TokenLogprobs] = field(default_factory=list)
    """One for each token, when asked for."""

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """The reply as JSON values, without its tokens; a logarithm that is not finite becomes None."""
        return {
            "text": self.text,
            "citations": [_citation(citation) for citation in self.citations],
            "tool_calls": [dataclasses.asdict(call) for call in self.tool_calls],
            "plan": self.plan,
            "search_queries": list(self.search_queries),
            "documents_relevant": list(self.documents_relevant),
            "documents_cited": list(self.documents_cited),
            "answer": self.answer,
            "finish_reason": self.finish_reason,
            "usage": dataclasses.asdict(self.usage),
            "timings": dataclasses.asdict(self.timings),
            "raw_text": self.raw_text,
            "logprobs": [
                {
                    "token": item.token,
                    "logprob": _finite(item.logprob),
                    "top": [[token, _finite(logprob)] for token, logprob in item.top],
                }
                for item in self.logprobs
            ],
        }


def resolve(citation: Citation, documents: Sequence[Source]) -> Citation:
    """The citation with its `sources`, one for each of its documents that exists.

    Args:
        citation: its numbers are places in `documents`, from 0; those of no document stay without a source.
        documents: all that the model was given, in its order.
    """
    found = tuple(documents[number] for number in citation.documents if 0 <= number < len(documents))
    return dataclasses.replace(citation, sources=found)


def sources(documents: Sequence[Mapping[str, str]], ids: Sequence[str] | None = None) -> list[Source]:
    """Documents with their ids; without any, the ids are their numbers, from 0."""
    names = [str(number) for number in range(len(documents))] if ids is None else ids
    return [Source(name, document) for name, document in zip(names, documents, strict=True)]


def _citation(citation: Citation) -> dict[str, Any]:
    return {
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "documents": list(citation.documents),
        "sources": [{"id": source.id, "document": dict(source.document)} for source in citation.sources],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
