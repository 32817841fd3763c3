"""Tags `<co: 0>...</co: 0>` around the cited spans of an answer, taken out of the text as it is written.

Tags may be written as `<co: 0>`, `<co:0>`, `<co: 0,1>` or `<co: 0, 1>`. A closing tag ends the innermost span with the
same documents, or the innermost one when none has them, and is left out when there is none at all. A span that is never
closed ends where the next one begins, or with the text. Spans may hold others or overlap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from commandr_gguf.chat.visible import Citation, VisibleText

_NUMBER = "[0-9]{1,9}"
_NUMBERS = re.compile(rf"{_NUMBER}(?:[ \t]*,[ \t]*{_NUMBER})*")
_INSIDE = r"[\s,0-9]{0,500}"
"""Between the colon and the end of a tag. The limit is there so that no endless list of numbers is held back."""
# An opening tag names its documents; a closing one may leave them out.
_TAG = re.compile(
    rf"<co:(?={_INSIDE}>)\s*(?P<opens>{_NUMBERS.pattern})\s*>"
    rf"|(?P<closes></co(?::(?={_INSIDE}>)\s*(?P<documents>{_NUMBERS.pattern})?\s*)?>)"
)
_BEGINNING = re.compile(rf"<(?:/?(?:c(?:o(?::{_INSIDE})?)?)?)?\Z")
"""What may still become a tag."""
_CUT = re.compile(r"</|<c")
"""How a tag begins that the end of the text cut; `<` alone may be anything."""


def read_numbers(text: str) -> list[int]:
    """The document numbers that a text begins with; `None` and the like stand for none."""
    match = _NUMBERS.match(text)
    return [int(number) for number in re.findall(_NUMBER, match[0])] if match else []


@dataclass(eq=False)
class _Span:
    documents: tuple[int, ...]
    start: int
    next_start: int | None = None
    """Where the next span begins."""


class CitedText:
    """Takes the tags out of a text and gives the rest on as a `VisibleText` does, with a citation for each span.

    A span is given on when its tag closes. What may still become a tag is held back.
    """

    def __init__(self) -> None:
        self._visible = VisibleText()
        self._held = ""
        self._opened: list[_Span] = []

    @property
    def solid(self) -> int:
        """Characters given on."""
        return self._visible.solid

    def write(self, text: str) -> list[str | Citation]:
        """Add text with tags; returns what can be given on by now."""
        text = self._held + text
        given: list[str | Citation] = []
        position = 0
        for tag in _TAG.finditer(text):
            given += self._visible.write(text[position : tag.start()])
            given += self._tag(tag)
            position = tag.end()
        beginning = _BEGINNING.search(text, position)
        end = len(text) if beginning is None else beginning.start()
        self._held = text[end:]
        return given + self._visible.write(text[position:end])

    def write_plain(self, text: str) -> list[str | Citation]:
        """Add text in which nothing is a tag."""
        return self.cut() + self._visible.write(text)

    def cut(self) -> list[str | Citation]:
        """Leave out a tag that has begun; what follows belongs to no tag before it."""
        held, self._held = self._held, ""
        return [] if _CUT.match(held) else self._visible.write(held)

    def drop_held(self) -> None:
        """Leave out what may be the beginning of a tag, be it `<` alone: the reply was cut there."""
        self._held = ""

    def behind(self, n: int) -> str:
        """What was written behind the first n characters given on, without tags; see `VisibleText.behind`."""
        return self._visible.behind(n)

    def forget_open(self) -> None:
        """Leave out the spans that are not closed yet."""
        self._opened.clear()

    def flush(self) -> list[str | Citation]:
        """The rest, when no more text comes."""
        given = self.cut()
        for span in self._opened:
            end = self._visible.position if span.next_start is None else span.next_start
            text = self._visible.read(span.start, end)
            end -= len(text) - len(text.rstrip())
            given += self._visible.cite(span.start, end, span.documents)
        self._opened.clear()
        return given + self._visible.flush()

    def _tag(self, tag: re.Match[str]) -> list[str | Citation]:
        place = self._visible.position
        if tag["opens"]:
            if self._opened and self._opened[-1].next_start is None:  # those before it have theirs since it began
                self._opened[-1].next_start = place
            self._opened.append(_Span(tuple(dict.fromkeys(read_numbers(tag["opens"]))), place))
            return []
        if not self._opened:
            return []
        documents = tuple(dict.fromkeys(read_numbers(tag["documents"] or "")))
        span = next((span for span in reversed(self._opened) if span.documents == documents), self._opened[-1])
        self._opened.remove(span)
        return self._visible.cite(span.start, place, span.documents)


def parse_citations(text: str) -> tuple[str, list[Citation]]:
    """The visible text of a complete answer with tags, without white space at its ends, and its citations.

    They stand in the order of their starts, the longer first where two start together.
    """
    cited = CitedText()
    given = cited.write(text) + cited.flush()
    citations = [item for item in given if isinstance(item, Citation)]
    return "".join(item for item in given if isinstance(item, str)), in_order(citations)


def in_order(citations: list[Citation]) -> list[Citation]:
    """By their starts; the longer first where two start together."""
    return sorted(citations, key=lambda citation: (citation.start, -citation.end, citation.documents))
