"""A reply from its events."""

from __future__ import annotations

from collections.abc import Sequence

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.events import (
    CitedDocuments,
    Part,
    PlainAnswer,
    Plan,
    RelevantDocuments,
    SearchQuery,
    Text,
)
from commandr_gguf.chat.reply import Reply, TokenLogprobs, resolve
from commandr_gguf.chat.tags import in_order
from commandr_gguf.chat.visible import Citation, Source
from commandr_gguf.usage import FinishReason, Timings, Usage


class ReplyBuilder:
    """Collects the events of one reply. It may be asked for the reply at any time, be it cut short."""

    def __init__(self, documents: Sequence[Source] = ()) -> None:
        """`documents` are all that the model was given, in its order; citations get those that they name."""
        self._documents = documents
        self._text: list[str] = []
        self._plan: list[str] = []
        self._answer: list[str] = []
        self._queries: dict[int, str] = {}
        self._citations: list[Citation] = []
        self._calls: list[ToolCall] = []
        self._relevant: tuple[int, ...] = ()
        self._cited: tuple[int, ...] = ()

    def add(self, event: Part) -> Part:
        """Take one event; returns it as a caller should see it: a citation with its sources."""
        if isinstance(event, Text):
            self._text.append(event.text)
        elif isinstance(event, Plan):
            self._plan.append(event.text)
        elif isinstance(event, PlainAnswer):
            self._answer.append(event.text)
        elif isinstance(event, SearchQuery):
            self._queries[event.index] = event.text
        elif isinstance(event, RelevantDocuments):
            self._relevant = event.numbers
        elif isinstance(event, CitedDocuments):
            self._cited = event.numbers
        elif isinstance(event, ToolCall):
            self._calls.append(event)
        else:
            event = resolve(event, self._documents)
            self._citations.append(event)
        return event

    def build(
        self,
        *,
        finish_reason: FinishReason | None = None,
        usage: Usage | None = None,
        timings: Timings | None = None,
        raw_text: str = "",
        tokens: Sequence[int] = (),
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> Reply:
        """The reply so far; what the parser cannot know comes from the generation."""
        return Reply(
            text="".join(self._text),
            citations=in_order(self._citations),
            tool_calls=list(self._calls),
            plan="".join(self._plan),
            search_queries=[self._queries[index] for index in sorted(self._queries)],
            documents_relevant=list(self._relevant),
            documents_cited=list(self._cited),
            answer="".join(self._answer) if self._answer else None,
            finish_reason=finish_reason,
            usage=usage or Usage(),
            timings=timings or Timings(),
            raw_text=raw_text,
            tokens=list(tokens),
            logprobs=list(logprobs),
        )
