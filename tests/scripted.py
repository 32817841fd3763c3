"""Replies that were written before, in the place of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from commandr_gguf import CommandR, Generation, GenerationStream, Piece, ReplyStream, Timings, Usage
from commandr_gguf.chat.filter import ReplyFormat, reply_parser
from commandr_gguf.chat.request import make_request
from commandr_gguf.chat.visible import Source
from commandr_gguf.reply_stream import Stage
from commandr_gguf.usage import FinishReason

PROMPT_TOKENS = 5


class Pieces:
    """A generation: one piece and one token for each text, the last with the reason of the end."""

    def __init__(
        self,
        *texts: str,
        reason: FinishReason = "stop",
        error: BaseException | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        self.result = Generation(usage=Usage(prompt_tokens=PROMPT_TOKENS), timings=Timings(prefill_tokens=4))
        self.n_closed = 0
        self.n_computed = 0
        self._texts = texts
        self._reason = reason
        self._error = error
        self._progress = progress
        self._cancelled = False

    def __iter__(self) -> Iterator[Piece]:
        for number, text in enumerate(self._texts):
            if self._cancelled or (self._progress is not None and self._progress(0, 1) is False):
                yield self._piece("", [], "cancelled")
                return
            self.n_computed += 1
            is_last = number + 1 == len(self._texts) and self._error is None
            yield self._piece(text, [number], self._reason if is_last else None)
        if self._error is not None:
            raise self._error
        if not self._texts:
            yield self._piece("", [], self._reason)

    def cancel(self) -> None:
        self._cancelled = True

    def close(self) -> None:
        self.n_closed += 1
        self.result.finish_reason = self.result.finish_reason or "cancelled"

    def _piece(self, text: str, tokens: list[int], reason: FinishReason | None) -> Piece:
        self.result.text += text
        self.result.tokens += tokens
        self.result.usage.completion_tokens = len(self.result.tokens)
        self.result.finish_reason = reason
        return Piece(text, tokens, [], reason)


def stage(pieces: Pieces, reply_format: ReplyFormat) -> Stage:
    return Stage(cast("GenerationStream", pieces), reply_parser(reply_format))


def words(text: str) -> list[str]:
    """The text in pieces of three characters."""
    return [text[i : i + 3] for i in range(0, len(text), 3)]


class ScriptedModel:
    """Writes one of `replies` after the other: a text, or what `Pieces` takes."""

    takes_steps_when_asked = True
    n_ctx = 4096

    def __init__(self, *replies: str | Mapping[str, Any]) -> None:
        self._replies = list(replies)
        self.asked: list[tuple[list[Any], dict[str, Any]]] = []

    def __enter__(self) -> ScriptedModel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def model(self) -> CommandR:
        return cast("CommandR", self)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Any = None,
        documents: Any = None,
        stream: bool = False,
        progress: Callable[[int, int], object] | None = None,
        multi_step: bool | None = None,
        **options: Any,
    ) -> ReplyStream:
        assert stream
        request = make_request(messages, documents, tools, multi_step=multi_step)
        self.asked.append((list(messages), {"tools": tools, "documents": documents, **options}))
        reply = self._replies.pop(0)
        script = {"text": reply} if isinstance(reply, str) else dict(reply)
        pieces = Pieces(*words(script.pop("text", "")), progress=progress, **script)
        return ReplyStream(
            stage(pieces, request.reply_format),
            [Source(document.id, document.texts) for document in request.citable],
        )
