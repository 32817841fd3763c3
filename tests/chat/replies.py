"""Replies written in pieces, for the tests of parsers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import strategies as st

from commandr_gguf.chat.events import Citation, Part, PlainAnswer, Plan, SearchQuery, Text, ToolCall
from commandr_gguf.chat.filter import ReplyFormat, reply_parser

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=6)
"""The sizes of pieces, again and again."""


def pieces(text: str, sizes: Sequence[int]) -> Iterable[str]:
    position = number = 0
    while position < len(text):
        size = sizes[number % len(sizes)]
        yield text[position : position + size]
        position += size
        number += 1


def stream(reply_format: ReplyFormat, parts: Iterable[str], *, cut: bool = False, **options: Any) -> list[Part]:
    """The events of a reply that is written in these pieces and cut or not; each must fit to those before it."""
    parser = reply_parser(reply_format, **options)
    events: list[Part] = []
    for part in parts:
        events += parser.write(part)
    events += parser.flush(cut=cut)
    check_offsets(events)
    assert [event.index for event in events if isinstance(event, SearchQuery)] == list(
        range(sum(isinstance(event, SearchQuery) for event in events))
    )
    return merged(events)


def check_offsets(events: Iterable[object]) -> None:
    """Fails where a citation is not one of the visible text in front of it, or comes twice."""
    visible = ""
    events = list(events)
    for event in events:
        if isinstance(event, Text):
            visible += event.text
        elif isinstance(event, Citation):
            assert 0 <= event.start < event.end <= len(visible)
            assert visible[event.start : event.end] == event.text
            assert event.text.strip()
    found = [event for event in events if isinstance(event, Citation)]
    assert len(set(map(repr, found))) == len(found)


def merged(events: Iterable[Part]) -> list[Part]:
    """The events with adjacent pieces of a text in one."""
    result: list[Part] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, (Text, PlainAnswer, Plan)):
            assert event.text
            if isinstance(last, (Text, PlainAnswer, Plan)) and type(last) is type(event):
                result[-1] = type(event)(last.text + event.text)
                continue
        result.append(event)
    return result


def whole(reply_format: ReplyFormat, text: str, **options: Any) -> list[Part]:
    return stream(reply_format, [text], **options)


def shown(events: Iterable[Part]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def planned(events: Iterable[Part]) -> str:
    return "".join(event.text for event in events if isinstance(event, Plan))


def citations(events: Iterable[Part]) -> list[Citation]:
    return [event for event in events if isinstance(event, Citation)]


def calls(events: Iterable[Part]) -> list[ToolCall]:
    return [event for event in events if isinstance(event, ToolCall)]
