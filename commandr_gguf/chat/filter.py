"""The parser for a reply's format.

The formats of the first Command-R are read by this package's own parsers, those of Command R7B and Command A through
cohere-melody's; `parsing.marked`, `parsing.search` and `parsing.sections` say why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

from commandr_gguf.chat.events import Part
from commandr_gguf.chat.parsing.marked import MarkedReply
from commandr_gguf.chat.parsing.plain import PlainReply
from commandr_gguf.chat.parsing.search import SearchReply
from commandr_gguf.chat.parsing.sections import SectionedReply
from commandr_gguf.errors import ArgumentError

ReplyFormat = Literal["chat", "grounded", "tools", "multi_step", "search", "cmd3", "cmd4"]
"""chat: plain text; grounded: numbers of documents and an answer with citations; tools: a list of actions; multi_step:
a plan and actions, or at last a grounded answer; search: queries; cmd3, cmd4: those of Command R7B and Command A."""


class ReplyParser(Protocol):
    """Reads a reply while it is written.

    Any split of a reply into pieces gives the same events, but for how texts are divided. Events come as early as the
    text decides on them. No text is refused; a reply that breaks its format comes out as text.
    """

    def write(self, text: str) -> list[Part]:
        """Add a piece of the reply; returns the events that it completes."""

    def flush(self, *, cut: bool = False) -> list[Part]:
        """The last events, when no more text comes.

        Args:
            cut: the model did not end the reply itself. What only its continuation could tell to be text or a part of
                the format is left out then, and so is a tool call that is not complete.
        """


def reply_parser(format: ReplyFormat, n_results: Sequence[int] | None = None) -> ReplyParser:  # noqa: A002
    """A parser for one reply.

    Args:
        format: of the reply.
        n_results: cmd3 and cmd4: how many results each tool call in the prompt has, in its order; documents are the
            first call's. Citations then number the results of all calls from 0. None stands for a single call.

    Raises:
        ArgumentError: there is no such format.
    """
    if format == "chat":
        return PlainReply()
    if format == "search":
        return SearchReply()
    if format in {"cmd3", "cmd4"}:
        return SectionedReply(n_results)
    if format in {"grounded", "tools", "multi_step"}:
        return MarkedReply(actions=format != "grounded", grounded=format != "tools")
    raise ArgumentError(f"the format of a reply must be one of {', '.join(get_args(ReplyFormat))}, not {format!r}")
