"""Replies of a chat on standard output: while they are written, with their citations, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from rich.console import Console
from rich.text import Text as RichText

from commandr_gguf.chat.events import Event, Finish, PlainAnswer, Plan, Text, ToolCall
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.tool_run import ToolResult
from commandr_gguf.cli.citations import print_grounded
from commandr_gguf.cli.terminal import make_console, printable


class ReplyPrinter(Protocol):
    """Prints one reply from its events, to the last line's end."""

    def __call__(self, events: Iterable[Event | ToolResult]) -> None:
        """Print while events come; what was printed stands when they fail."""


def print_text(events: Iterable[Event | ToolResult]) -> None:
    """The visible text as it comes. Plans, calls of tools and their results go to standard error."""
    aside = Console(stderr=True, highlight=False)
    try:
        for event in events:
            if isinstance(event, Text):
                sys.stdout.write(event.text)
                sys.stdout.flush()
            elif isinstance(event, Plan):
                aside.print(RichText(printable(event.text), "dim"), end="")
            elif isinstance(event, ToolCall):
                aside.print(RichText(printable(f"\n-> {event}"), "dim"))
            elif isinstance(event, ToolResult):
                aside.print(RichText(printable(f"<- {_short(event)}"), "dim"))
    finally:
        sys.stdout.write("\n")
        sys.stdout.flush()


class CitationPrinter:
    """The answer with numbers of citations in it and the documents below; in a terminal, first the plain answer."""

    def __init__(self, documents: Sequence[Mapping[str, str]]) -> None:
        """`documents`: as the model was given them, in their order."""
        self._documents = documents
        self._console = make_console()

    def __call__(self, events: Iterable[Event | ToolResult]) -> None:
        """See `ReplyPrinter`."""
        reply: Reply | None = None
        draft = False
        for event in events:
            if isinstance(event, PlainAnswer) and self._console.is_terminal:
                self._console.print(RichText(printable(event.text), "dim"), end="", soft_wrap=True)
                draft = True
            elif isinstance(event, Finish):
                reply = event.reply
        if draft:
            self._console.print("\n")
        if reply is not None:
            print_grounded(self._console, reply, self._documents, all_documents=False)


def print_json(events: Iterable[Event | ToolResult]) -> None:
    """The reply object in one line."""
    for event in events:
        if isinstance(event, Finish):
            print(json.dumps(event.reply.to_dict(), ensure_ascii=False), flush=True)


def _short(result: ToolResult, limit: int = 300) -> str:
    text = result.error if result.error is not None else repr(result.value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
