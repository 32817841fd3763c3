"""What a reader makes of a file: its text, and where in it headings and pages begin."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mark:
    """The start of a section or of a page."""

    offset: int
    """In characters, where its heading or its page begins."""
    body: int
    """Where what follows the heading begins; `offset` for a page."""
    path: tuple[str, ...] = ()
    """The headings from the outermost to its own; empty for a page."""
    page: int = 0
    """Counted from 1; 0 for a section."""


@dataclass(frozen=True)
class Content:
    """A file's text."""

    text: str
    title: str = ""
    """What the file calls itself; "" when it does not."""
    marks: list[Mark] = field(default_factory=list)
    """In the order of their offsets."""


def chunk_title(content: Content, start: int, end: int, file_name: str) -> str:
    """A title for the characters start..end-1: the headings or pages that they stand under."""
    first = bisect.bisect_right(content.marks, start, key=lambda mark: mark.offset) - 1
    last = bisect.bisect_left(content.marks, end, key=lambda mark: mark.offset)
    covering = content.marks[max(first, 0) : last]
    if first < 0 or not covering:  # it begins before the first heading
        return content.title or file_name
    pages = covering[0].page, covering[-1].page
    if pages[0]:
        title = content.title or file_name
        return f"{title}, page {pages[0]}" if pages[0] == pages[1] else f"{title}, pages {pages[0]}-{pages[1]}"
    path = covering[0].path
    for mark in covering[1:]:
        path = tuple(mine for mine, _ in itertools.takewhile(_equal, zip(path, mark.path, strict=False)))
    if content.title and path and path[0].casefold() in content.title.casefold():
        path = path[1:]
    titles = [content.title, *path] if content.title else path
    return " > ".join(titles) or file_name


def _equal(pair: tuple[str, str]) -> bool:
    return pair[0] == pair[1]
