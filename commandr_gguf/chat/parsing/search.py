"""Search queries: `Search: first ||| second`, or `None`.

Behind the mark a line break separates queries as `|||` does. This does without cohere-melody, which finds other queries
for other splits into pieces, and drops replies without the mark; here these are visible text.
"""

from __future__ import annotations

import re

from commandr_gguf.chat.events import Part, SearchQuery, Text
from commandr_gguf.chat.marks import mark_pattern, may_become_mark
from commandr_gguf.chat.visible import VisibleText

_MARK = mark_pattern("search")
_NOTHING = re.compile(r"[ \t]{0,64}(?:none[ \t]{0,64}\.?[ \t\r]{0,64})?", re.IGNORECASE)
_BEGINNING_OF_NOTHING = re.compile(r"[ \t]{0,64}(?:n|no|non)?", re.IGNORECASE)
_SEPARATOR = re.compile(r"\|\|\||\n")


class SearchReply:
    """Parser of replies that say what to search for."""

    def __init__(self) -> None:
        self._held = ""
        self._searched = 0
        """How much of what is held has no separator."""
        self._at_line = True
        self._marked = False
        self._count = 0
        self._text = VisibleText()

    def write(self, text: str) -> list[Part]:
        """Add a piece of the reply; returns the queries that it completes."""
        self._held += text
        return self._read(final=False)

    def flush(self, *, cut: bool = False) -> list[Part]:
        """The last query, be it cut; of a reply that was cut within its mark, nothing."""
        if cut and not self._marked:
            self._held = ""
        return self._read(final=True)

    def _read(self, *, final: bool) -> list[Part]:
        events: list[Part] = []
        while self._held and not self._marked:
            if self._at_line and not final and self._undecided():
                return events
            mark = _MARK.match(self._held) if self._at_line else None
            if mark is not None:
                self._marked = True
                break
            line, newline, rest = self._held.partition("\n")
            nothing = self._at_line and _NOTHING.fullmatch(line) is not None
            given = self._text.write(newline if nothing else line + newline)
            events += (Text(item) for item in given if isinstance(item, str))
            self._held, self._at_line = rest, bool(newline)
        while self._marked and self._held:
            found = _SEPARATOR.search(self._held, self._searched)
            if found is None and not final:
                self._searched = max(len(self._held) - 2, 0)  # two bars may become three
                break
            end, next_query = (len(self._held),) * 2 if found is None else found.span()
            events += self._query(self._held[:end])
            self._held, self._searched = self._held[next_query:], 0
        return events

    def _undecided(self) -> bool:
        """Whether the line that has begun may be a mark, or `None`."""
        line, newline, _ = self._held.partition("\n")
        beginning = (
            _NOTHING.fullmatch(line) or _BEGINNING_OF_NOTHING.fullmatch(line) or may_become_mark(line, ["search"])
        )
        return not newline and bool(beginning)

    def _query(self, text: str) -> list[Part]:
        mark = _MARK.match(text)
        text = text[mark.end() if mark else 0 :].strip("| \t\r\n*")
        if _NOTHING.fullmatch(text):
            return []
        self._count += 1
        return [SearchQuery(self._count - 1, text)]
