"""Grounded answers as a reader likes them: cited spans in color with numbers behind them, the documents below."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.text import Text

from commandr_gguf.chat.citations import Citation
from commandr_gguf.cli.terminal import print_text, printable

_COLORS = ("cyan", "green", "magenta", "yellow", "blue")
_EXCERPT = 600


class Cited(Protocol):
    """An answer with citations: a `Reply` or a `GroundedAnswer`."""

    @property
    def text(self) -> str:
        """The visible text."""

    @property
    def citations(self) -> list[Citation]:
        """Spans of it."""


def print_grounded(
    console: Console, answer: Cited, documents: Sequence[Mapping[str, str]], *, all_documents: bool = True
) -> None:
    """Print an answer and the documents that it was given, or those that it cites. People count documents from 1."""
    print_text(console, answer_text(answer))
    console.print()
    cited = {number for citation in answer.citations for number in citation.documents}
    for number, document in enumerate(documents):
        if not all_documents and number not in cited:
            continue
        passages = [citation.text for citation in answer.citations if number in citation.documents]
        heading, *fields = document_texts(number, document, passages, cited=number in cited)
        print_text(console, heading)
        for field in fields:
            print_text(console, field, indent=8)
    if absent := sorted(cited - set(range(len(documents)))):
        numbers = "".join(f"[{number + 1}]" for number in absent)
        print_text(console, f"{numbers}: the model cites what it was not given", "red")


def answer_text(answer: Cited) -> Text:
    """The visible text; each cited span has the color of its first document, and all its documents' numbers behind."""
    text = Text(printable(answer.text))
    ends: dict[int, set[int]] = defaultdict(set)
    for citation in answer.citations:
        if citation.documents:
            text.stylize(_color(citation.documents[0]), citation.start, citation.end)
        ends[citation.end].update(citation.documents)
    places = sorted(ends)
    result = Text()
    for piece, place in zip(text.divide(places), [*places, None], strict=True):
        result.append_text(piece)
        for number in sorted(ends[place]) if place is not None else ():
            result.append(f"[{number + 1}]", f"bold {_color(number)}")
    return result


def document_texts(number: int, document: Mapping[str, str], passages: Sequence[str], *, cited: bool) -> list[Text]:
    """A document's heading and its fields, with the cited passages in color where they stand word for word."""
    style = "" if cited else "dim"
    heading = Text(style=style).append(f"[{number + 1}]", f"bold {_color(number)}" if cited else "")
    if title := document.get("title"):
        heading.append(" ").append_text(_marked(title, passages, number))
    if not cited:
        heading.append("  not cited", "italic")
    body = {key: value for key, value in document.items() if key != "title"}
    fields = []
    for key, value in body.items():
        field = Text("" if len(body) == 1 else f"{printable(key)}: ", style)
        fields.append(field.append_text(_marked(_excerpt(value, passages), passages, number)))
    return [heading, *fields]


def _marked(value: str, passages: Sequence[str], number: int) -> Text:
    text = Text(printable(value))
    for passage in passages:
        for match in _find(passage, value):
            text.stylize(f"bold {_color(number)}", *match.span())
    return text


def _excerpt(value: str, passages: Sequence[str]) -> str:
    """`value`, or of a long one the part around its first cited passage."""
    value = value.strip()
    if len(value) <= _EXCERPT:
        return value
    first = min((match.start() for passage in passages for match in _find(passage, value)), default=0)
    start = max(0, min(first - _EXCERPT // 2, len(value) - _EXCERPT))
    end = start + _EXCERPT
    return ("…" if start else "") + value[start:end].strip() + ("…" if end < len(value) else "")


def _find(passage: str, value: str) -> list[re.Match[str]]:
    """Where a passage stands as whole words or, when it does nowhere, inside of words: some languages have no spaces.

    A number stands for itself even there: a cited 4 is not the 4 in 1984, and 1987 is that in 1987年.
    """
    exact = re.escape(passage)
    inside = rf"(?<![\dA-Za-z_]){exact}(?![\dA-Za-z_])" if passage.isdecimal() else exact
    return list(re.finditer(rf"(?<!\w){exact}(?!\w)", value)) or list(re.finditer(inside, value))


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]
