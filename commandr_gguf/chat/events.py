"""What happens while a reply is written. A stream of events ends with `Finish`.

Adjacent pieces of one kind belong together: how many there are depends on the tokens that the model chose.
"""

from __future__ import annotations

from dataclasses import dataclass

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.visible import Citation, Source


@dataclass(frozen=True)
class Text:
    """A piece of the visible text; all of them joined are `Reply.text`."""

    text: str


@dataclass(frozen=True)
class PlainAnswer:
    """A piece of the answer without citations that comes before the one with them; no part of the visible text."""

    text: str


@dataclass(frozen=True)
class Plan:
    """A piece of what the model says to itself: a plan, a reflection, its reasoning."""

    text: str


@dataclass(frozen=True)
class SearchQuery:
    """A query that the model wants to be searched for."""

    index: int
    """From 0."""
    text: str


@dataclass(frozen=True)
class RelevantDocuments:
    """The documents that the model found relevant."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class CitedDocuments:
    """The documents that the model announced to cite."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Finish:
    """The end."""

    reply: Reply


Part = Text | PlainAnswer | Plan | SearchQuery | RelevantDocuments | CitedDocuments | Citation | ToolCall
"""An event that is part of the reply."""
Event = Part | Finish

__all__ = [
    "Citation",
    "CitedDocuments",
    "Event",
    "Finish",
    "Part",
    "PlainAnswer",
    "Plan",
    "RelevantDocuments",
    "SearchQuery",
    "Source",
    "Text",
    "ToolCall",
]
