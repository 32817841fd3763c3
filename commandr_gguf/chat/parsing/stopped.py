"""Stop strings in the visible text of a reply, the words of its format and its hidden parts left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from commandr_gguf.chat.events import Citation, Part, Text
from commandr_gguf.stops import StopStrings


class VisibleStops:
    """Passes the events of a reply on until a stop string occurs in its visible text.

    Text that may be the beginning of a stop string is held back, and with it the citations of that text. Citations that
    reach beyond the stop string are cut to the text in front of it. All other events pass.
    """

    def __init__(self, stop: str | Sequence[str] = ()) -> None:
        """Raises ArgumentError for what is no stop string."""
        self._stops = StopStrings(stop)
        self._length = 0
        """Visible characters passed on."""
        self._waiting: list[Citation] = []
        self._given: set[tuple[int, int, tuple[int, ...]]] = set()

    @property
    def watches(self) -> bool:
        """Whether there is any stop string."""
        return self._stops.watches

    @property
    def found(self) -> bool:
        """Whether the visible text has ended."""
        return self._stops.found is not None

    def add(self, part: Part) -> list[Part]:
        """The events that may be passed on by now."""
        if not self.watches:
            return [part]
        if isinstance(part, Text):
            return self._pass(self._stops.push(part.text))
        if isinstance(part, Citation):
            if part.end > self._length and not self.found:
                self._waiting.append(part)
                return []
            return self._cite(part)
        return [part]

    def flush(self) -> list[Part]:
        """What is held back, when no more events come."""
        return self._pass(self._stops.flush())

    def _pass(self, text: str) -> list[Part]:
        given: list[Part] = []
        end = self._length + len(text)
        waiting = sorted(self._waiting, key=lambda citation: citation.end)  # sorting is stable
        for citation in waiting:
            if citation.end <= end or self.found:
                n = min(citation.end, end) - self._length
                given += [Text(text[:n])] if n > 0 else []
                text, self._length = text[max(n, 0) :], self._length + max(n, 0)
                given += self._cite(citation)
        self._waiting = [citation for citation in waiting if citation.end > end and not self.found]
        self._length = end
        return [*given, Text(text)] if text else given

    def _cite(self, citation: Citation) -> list[Part]:
        """The citation, cut to the visible text; none where nothing is left of it, or what was there before."""
        text = citation.text[: max(self._length - citation.start, 0)]
        cut = dataclasses.replace(citation, end=citation.start + len(text), text=text)
        key = (cut.start, cut.end, cut.documents)
        if not text.strip() or key in self._given:
            return []
        self._given.add(key)
        return [cut]


def joined(parts: Iterable[Part]) -> list[Part]:
    """The events with adjacent pieces of visible text in one."""
    result: list[Part] = []
    for part in parts:
        if isinstance(part, Text) and result and isinstance(last := result[-1], Text):
            result[-1] = Text(last.text + part.text)
        else:
            result.append(part)
    return result
