"""The visible text of a reply while it is written, and the spans of it that cite documents."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Source:
    """A document that a citation points to."""

    id: str
    document: Mapping[str, str] = field(hash=False)
    """Its keys and values, as the model read them."""


@dataclass(frozen=True)
class Citation:
    """A span of an answer and the documents it comes from."""

    start: int
    """In characters of the visible text."""
    end: int
    """Behind the last character."""
    text: str
    """`visible_text[start:end]`."""
    documents: tuple[int, ...]
    """Their numbers as the model wrote them: whether there are such documents is not known here."""
    sources: tuple[Source, ...] = ()
    """Those of the documents that exist, once they are known, see `chat.reply.resolve`."""


class VisibleText:
    """Gives text on without the white space at its two ends, and citations when their text has been given on.

    White space is held back until something follows it. What is given on, and in which order, does not depend on how
    the text was split into pieces.
    """

    def __init__(self) -> None:
        self.position = 0
        """Characters written, white space at the beginning included: what `cite` counts in."""
        self.solid = 0
        """Characters given on."""
        self._leading = 0
        self._text = io.StringIO()
        self._waiting: list[tuple[int, int, tuple[int, ...]]] = []
        self._given: set[tuple[int, int, tuple[int, ...]]] = set()

    def write(self, text: str) -> list[str | Citation]:
        """Add text; returns what can be given on by now."""
        self.position += len(text)
        if not self.solid:
            text = text.lstrip()
            self._leading = self.position - len(text)
        self._text.seek(0, io.SEEK_END)
        self._text.write(text)
        body = text.rstrip()
        if not body:
            return []
        end = self.position - self._leading - (len(text) - len(body))
        given: list[str | Citation] = []
        for span in sorted(self._waiting, key=lambda span: span[1]):  # sorting is stable
            given += self._give_text(span[1])
            given += self._give_citation(*span)
        self._waiting.clear()
        return given + self._give_text(end)

    def cite(self, start: int, end: int, documents: tuple[int, ...]) -> list[str | Citation]:
        """Add a citation of text that has been written; one of white space alone is left out, as is a repeated one.

        Args:
            start: as `position` was where the span begins.
            end: as `position` was where it ends.
            documents: their numbers.
        """
        start, end = (max(place - self._leading, 0) for place in (start, end))
        if end <= self.solid:
            return self._give_citation(start, end, documents)
        self._waiting.append((start, end, documents))
        return []

    def read(self, start: int, end: int) -> str:
        """The text written between two values of `position`."""
        start, end = (max(place - self._leading, 0) for place in (start, end))
        self._text.seek(start)
        return self._text.read(max(end - start, 0))

    def behind(self, n: int) -> str:
        """What was written behind the first n characters given on, white space at its end included."""
        self._text.seek(n)
        return self._text.read()

    def flush(self) -> list[str | Citation]:
        """The citations that waited for white space to be followed by something."""
        waiting, self._waiting = self._waiting, []
        return [
            citation
            for start, end, documents in waiting
            for citation in self._give_citation(start, min(end, self.solid), documents)
        ]

    def _give_text(self, end: int) -> list[str | Citation]:
        start, self.solid = self.solid, max(self.solid, end)
        self._text.seek(start)
        return [self._text.read(end - start)] if start < end else []

    def _give_citation(self, start: int, end: int, documents: tuple[int, ...]) -> list[str | Citation]:
        text = self.read(start + self._leading, end + self._leading)
        if not text.strip() or (start, end, documents) in self._given:
            return []
        self._given.add((start, end, documents))
        return [Citation(start, end, text, documents)]
