"""The answer and the citations of a complete grounded reply.

A model that was given documents writes

    Relevant Documents: 0,1
    Cited Documents: 0
    Answer: The bridge was opened in 1987.
    Grounded answer: The bridge was opened in <co: 0>1987</co: 0>.

or, in the fast mode, the same without the line `Answer:`. Numbers are those of the documents, from 0; `None` stands for
no document. Spans may hold others or overlap.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_RELEVANT, _CITED, _ANSWER, _GROUNDED = "relevant documents", "cited documents", "answer", "grounded answer"
_ORDER = (_RELEVANT, _CITED, _ANSWER, _GROUNDED)
# Models that write Markdown put asterisks around marks; those behind a colon must pair, else they are the answer's.
_MARK = re.compile(
    rf"^[ \t]*(?:(?P<stars>\*+)[ \t]*)?(?P<name>{'|'.join(_ORDER)})[ \t]*(?::(?P=stars)|\*+[ \t]*:|:)[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = "[0-9]{1,9}"
_NUMBERS = re.compile(rf"{_NUMBER}(?:[ \t]*,[ \t]*{_NUMBER})*")
# An opening tag names its documents; a closing one may leave them out. The last form is a tag that the reply's end cut.
_TAG = re.compile(
    rf"<co:\s*(?P<opens>{_NUMBERS.pattern})\s*>"
    rf"|(?P<closes></co(?::\s*(?P<documents>{_NUMBERS.pattern})?\s*)?>)"
    rf"|</?co(?::[\s,0-9]*)?\Z"
)


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


@dataclass(frozen=True)
class GroundedAnswer:
    """A grounded reply in its parts."""

    text: str
    """What a reader is to see: the grounded answer without tags. When that is missing or blank, the plain answer; when
    the reply has none of the marks, all of it without tags."""
    citations: list[Citation] = field(default_factory=list)
    """Spans of `text` in the order of their starts; the longer first where two start together."""
    relevant: list[int] = field(default_factory=list)
    """Documents that the model found relevant."""
    cited: list[int] = field(default_factory=list)
    """Documents that the model announced to cite, which need not be those of `citations`."""
    answer: str | None = None
    """The plain answer; None when the reply has none, as in the fast mode."""


def parse_grounded_answer(reply: str) -> GroundedAnswer:
    """Take a complete grounded reply apart. Any text is taken; see `GroundedAnswer.text` for replies without marks.

    Tags may be written as `<co: 0>`, `<co:0>`, `<co: 0,1>` or `<co: 0, 1>`. A closing tag ends the innermost span with
    the same documents, or the innermost one when none has them, and is left out when there is none at all. A span that
    is never closed ends where the next one begins, or with the text.
    """
    parts, rest = _parts(reply)
    answer = parts.get(_ANSWER)
    for part in (parts.get(_GROUNDED), answer, rest):
        text, citations = parse_citations(part or "")
        if text:
            break
    return GroundedAnswer(
        text=text,
        citations=citations,
        relevant=_numbers(parts.get(_RELEVANT, "")),
        cited=_numbers(parts.get(_CITED, "")),
        answer=None if answer is None else parse_citations(answer)[0],
    )


def parse_citations(text: str) -> tuple[str, list[Citation]]:
    """The visible text of an answer with tags, without white space at its ends, and its citations."""
    pieces: list[str] = []
    length = position = 0
    spans: list[_Span] = []
    opened: list[_Span] = []
    for tag in _TAG.finditer(text):
        pieces.append(text[position : tag.start()])
        length += tag.start() - position
        position = tag.end()
        if tag["opens"]:
            if opened and opened[-1].next_start is None:  # those before it have theirs since it began
                opened[-1].next_start = length
            opened.append(_Span(tuple(dict.fromkeys(_numbers(tag["opens"]))), length))
            spans.append(opened[-1])
        elif tag["closes"] and opened:
            documents = tuple(dict.fromkeys(_numbers(tag["documents"] or "")))
            span = next((span for span in reversed(opened) if span.documents == documents), opened[-1])
            span.end = length
            opened.remove(span)
    visible = "".join([*pieces, text[position:]])
    for span in opened:
        end = len(visible) if span.next_start is None else span.next_start
        span.end = span.start + len(visible[span.start : end].rstrip())
    return _stripped(visible, spans)


@dataclass(eq=False)
class _Span:
    documents: tuple[int, ...]
    start: int
    end: int = 0
    next_start: int | None = None
    """Where the next span begins."""


def _stripped(visible: str, spans: list[_Span]) -> tuple[str, list[Citation]]:
    text = visible.strip()
    offset = len(visible) - len(visible.lstrip())
    citations = []
    for span in spans:
        start, end = (min(max(place - offset, 0), len(text)) for place in (span.start, span.end))
        if start < end:
            citations.append(Citation(start, end, text[start:end], span.documents))
    return text, sorted(citations, key=lambda citation: (citation.start, -citation.end))


def _parts(reply: str) -> tuple[dict[str, str], str]:
    """The text behind each mark, and what is no part of any: all of a reply without marks."""
    marks: list[tuple[str, re.Match[str]]] = []
    for match in _MARK.finditer(reply):
        name = match["name"].lower()
        # An answer may have a line that begins with "Answer:": a mark counts once, in its order, and this one only
        # where the reply has begun with marks.
        expected = bool(marks) or name != _ANSWER or not reply[: match.start()].strip()
        if expected and all(_ORDER.index(name) > _ORDER.index(earlier) for earlier, _ in marks):
            marks.append((name, match))
    if not marks:
        return {}, reply
    ends = [*(match.start() for _, match in marks[1:]), len(reply)]
    parts = {name: reply[match.end() : end] for (name, match), end in zip(marks, ends, strict=True)}
    last = marks[-1][0]
    # A reply that forgets the mark of its answer still has the answer, below the line of numbers.
    rest = parts[last].partition("\n")[2] if last in (_RELEVANT, _CITED) else ""
    return parts, rest


def _numbers(text: str) -> list[int]:
    """The numbers that a line begins with."""
    match = _NUMBERS.match(text)
    return [int(number) for number in re.findall(_NUMBER, match[0])] if match else []
