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
MAX_STARS = 8
"""Asterisks at one side of a mark."""
# Limits, so that a parser of a stream never holds back, and reads again with each piece, an endless run of them.
_SPACE, _STARS = r"[ \t]{0,64}", rf"\*{{1,{MAX_STARS}}}"
_AROUND = re.compile(rf"{_SPACE}(?:{_STARS}{_SPACE})?")


@functools.cache
def mark_pattern(*names: str) -> re.Pattern[str]:
    """A pattern for a mark with one of these names, at the beginning of a line, in capitals or not; group `name`."""
    return re.compile(
        rf"^{_SPACE}(?:(?P<stars>{_STARS}){_SPACE})?(?P<name>{'|'.join(names)}){_SPACE}"
        rf"(?::(?P=stars)|{_STARS}{_SPACE}:|:){_SPACE}",
        re.IGNORECASE | re.MULTILINE | re.ASCII,
    )


def may_become_mark(line: str, names: Sequence[str]) -> bool:
    """Whether an unfinished line may be the beginning of such a mark, without its colon so far."""
    in_front = _AROUND.match(line)
    rest = line[in_front.end() if in_front else 0 :].lower()
    return any(
        name.startswith(rest) or (rest.startswith(name) and _AROUND.fullmatch(rest, len(name)) is not None)
        for name in names
    )
