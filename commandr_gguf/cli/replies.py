"""Replies of a chat on standard output: while they are written, with their citations, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text as RichText

from commandr_gguf.chat.events import Event, Finish, PlainAnswer, Plan, Text, ToolCall
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.tool_run import ToolResult
from commandr_gguf.chat.toolbox import result_content
from commandr_gguf.chat.visible import Source
from commandr_gguf.cli.citations import print_grounded
from commandr_gguf.cli.format import timings_dict
from commandr_gguf.cli.terminal import make_console, printable


class ReplyPrinter(Protocol):
    """Prints one reply from its events, to the last line's end."""

    def __call__(self, events: Iterable[Event | ToolResult]) -> None:
        """Print while events come; what was printed stands when they fail."""


def print_text(events: Iterable[Event | ToolResult]) -> None:
    """The visible text as it comes. Plans, calls of tools and their results go to standard error."""
    aside = Console(stderr=True, highlight=False)
    show = printable if sys.stdout.isatty() else _as_it_is
    try:
        for event in events:
            if isinstance(event, Text):
                sys.stdout.write(show(event.text))
                sys.stdout.flush()
            elif isinstance(event, Plan):
                aside.print(RichText(printable(event.text), "dim"), end="", soft_wrap=True)
            elif isinstance(event, ToolCall):
                aside.print(RichText(printable(f"\n-> {event}"), "dim"), soft_wrap=True)
            elif isinstance(event, ToolResult):
                aside.print(RichText(printable(f"<- {_short(event)}"), "dim"), soft_wrap=True)
            elif isinstance(event, Finish) and event.reply.tool_calls:
                was_cut = event.reply.finish_reason == "length"
                reason = (
                    "the reply was cut, see --max-tokens and --ctx" if was_cut else "the limit of tool steps is reached"
                )
                aside.print(f"no answer: {reason}", soft_wrap=True)
            elif isinstance(event, Finish):
                for number, citation in enumerate(event.reply.citations):
                    sources = "; ".join(_short_text(source) for source in citation.sources)
                    line = f"[{citation.text}] {sources}" if number else f"\n[{citation.text}] {sources}"
                    aside.print(RichText(printable(line), "dim"), soft_wrap=True)
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
        draft: type[PlainAnswer | Text] | None = None
        """What is shown while the model writes: the first of the two that comes."""
        try:
            for event in events:
                if isinstance(event, (PlainAnswer, Text)) and self._console.is_terminal:
                    draft = draft or type(event)
                    if isinstance(event, draft):
                        self._console.print(RichText(printable(event.text), "dim"), end="", soft_wrap=True)
                elif isinstance(event, Finish):
                    reply = event.reply
        finally:
            if draft is not None:
                self._console.print()
        if reply is not None:
            if draft is not None:
                self._console.print()
            print_grounded(self._console, reply, self._documents, all_documents=False)


def print_json(events: Iterable[Event | ToolResult]) -> None:
    """The reply object in one line; what tools were called before the answer stands under "tool_results"."""
    results: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, ToolResult):
            call = {"name": event.call.name, "parameters": event.call.parameters}
            results.append(call | {"documents": result_content(event), "seconds": event.seconds})
        elif isinstance(event, Finish):
            value = event.reply.to_dict() | {"timings": timings_dict(event.reply.timings)}
            if results:
                value["tool_results"] = results
            print(json.dumps(value, ensure_ascii=False), flush=True)


def _as_it_is(text: str) -> str:
    return text


def _short_text(source: Source) -> str:
    return f"{source.id}: {_cut(' '.join(map(str, source.document.values())), 200)}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _short(result: ToolResult, limit: int = 300) -> str:
    return _cut(result.error if result.error is not None else repr(result.value), limit)
