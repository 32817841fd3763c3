"""Marks: the words at the beginning of a line that say what follows, such as `Answer:` and `Action:`.

Models that write Markdown put asterisks around marks, which belong to the mark: `**Answer:** four`. Asterisks behind a
colon must pair with those in front, else they are those of the text that follows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

RELEVANT, CITED, ANSWER, GROUNDED = "relevant documents", "cited documents", "answer", "grounded answer"
PLAN, REFLECTION, ACTION = "plan", "reflection", "action"
_IN_FRONT = re.compile(r"[ \t]*(?:\*+[ \t]*)?")
_BEHIND = re.compile(r"[ \t]*(?:\*+[ \t]*)?")


@functools.cache
def mark_pattern(*names: str) -> re.Pattern[str]:
    """A pattern for a mark with one of these names, at the beginning of a line, in capitals or not; group `name`."""
    return re.compile(
        rf"^[ \t]*(?:(?P<stars>\*+)[ \t]*)?(?P<name>{'|'.join(names)})[ \t]*(?::(?P=stars)|\*+[ \t]*:|:)[ \t]*",
        re.IGNORECASE | re.MULTILINE | re.ASCII,
    )


def may_become_mark(line: str, names: Sequence[str]) -> bool:
    """Whether an unfinished line may be the beginning of such a mark, without its colon so far."""
    in_front = _IN_FRONT.match(line)
    rest = line[in_front.end() if in_front else 0 :].lower()
    return any(
        name.startswith(rest) or (rest.startswith(name) and _BEHIND.fullmatch(rest, len(name)) is not None)
        for name in names
    )
