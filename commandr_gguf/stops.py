"""Stop strings in a stream of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from commandr_gguf.errors import ArgumentError


class StopStrings:
    """Passes text on until a stop string occurs, and holds back what may be the beginning of one.

    The one that is complete first ends the text, and of those that end together the longest: how the text is cut into
    pieces makes no difference.
    """

    def __init__(self, stop: str | Sequence[str] = ()) -> None:
        if not isinstance(stop, Iterable):
            raise ArgumentError(f"stop must be strings of at least one character, not {stop!r}")
        self._stops = [stop] if isinstance(stop, str) else list(stop)
        if not all(isinstance(text, str) and text for text in self._stops):
            raise ArgumentError(f"stop must be strings of at least one character, not {stop!r}")
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text."""

    @property
    def watches(self) -> bool:
        """Whether there is any stop string."""
        return bool(self._stops)

    def push(self, text: str) -> str:
        """The part of the text so far, not passed on yet, that no stop string can take back."""
        if self.found is not None:
            return ""
        self._held += text
        first = min(((i + len(s), i, s) for s in self._stops if (i := self._held.find(s)) >= 0), default=None)
        if first is not None:
            _, end, self.found = first
        else:
            end = len(self._held) - self._longest_beginning()
        passed, self._held = self._held[:end], self._held[end:]
        return passed

    def flush(self) -> str:
        """What is held back when no more text comes."""
        held, self._held = self._held, ""
        return "" if self.found is not None else held

    def _longest_beginning(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = max(map(len, self._stops), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-n:]
            if any(stop.startswith(end) for stop in self._stops):
                return n
        return 0
