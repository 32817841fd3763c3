"""POST /v1/chat/completions."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.events import Event, Plan, Text
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.visible import Citation
from commandr_gguf.errors import CommandRError
from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.sampling import Logprobs
from commandr_gguf.server.asked import Asked
from commandr_gguf.server.jobs import Output
from commandr_gguf.server.openai.chat_asked import ChatAsked, chat_asked
from commandr_gguf.server.openai.errors import openai_error
from commandr_gguf.server.openai.forms import DONE, finish_reason, new_id, sse, total, usage_in
from commandr_gguf.server.openai.logprobs import token_logprobs
from commandr_gguf.server.openai.options import of_choice
from commandr_gguf.server.openai.tools import new_call
from commandr_gguf.server.replies import citation_in, log_reply
from commandr_gguf.server.state import State
from commandr_gguf.server.stream import Tickets


async def chat_completions(request: Request, state: State) -> Response:
    """Answer a conversation, at once or as a stream of chunks."""
    wanted = chat_asked(await state.body(request), state)

    def begin(number: int) -> ReplyStream:
        return state.model.chat(wanted.asked.messages, stream=True, **of_choice(wanted.asked.options, number))

    streams, tickets = await state.ask_all(functools.partial(begin, i) for i in range(wanted.n))
    if wanted.asked.stream:
        return EventSourceResponse(_events(wanted, state, streams, tickets, request), sep="\n")
    lasts = await tickets.finish(request.receive)
    _log(request, streams)
    choices = [
        _choice(i, stream.reply, last, wanted.asked, state)
        for i, (stream, last) in enumerate(zip(streams, lasts, strict=True))
    ]
    head = _head("chat.completion", state)
    return JSONResponse({**head, "choices": choices, "usage": _usage(streams)})


def _head(kind: str, state: State) -> dict[str, Any]:
    return {"id": new_id("chatcmpl-"), "object": kind, "created": int(time.time()), "model": state.model_name}


def _choice(index: int, reply: Reply, last: Output, asked: Asked, state: State) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["content"] = reply.text or None
        message["tool_calls"] = [new_call(call) for call in reply.tool_calls]
    if reply.plan:
        message["reasoning_content"] = reply.plan
    if reply.citations and asked.cites:
        message["citations"] = [_citation(i, citation, asked) for i, citation in enumerate(reply.citations)]
    reason = finish_reason(reply.finish_reason, timed_out=last.timed_out, has_calls=bool(reply.tool_calls))
    logprobs = None
    if "top_logprobs" in asked.options:
        logprobs = {"content": token_logprobs(reply.logprobs, state.model.tokenizer), "refusal": None}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _citation(index: int, citation: Citation, asked: Asked) -> dict[str, Any]:
    # Readers of streams join lists by the index of their elements.
    return {"index": index, **citation_in(citation, asked.document_ids)}


def _usage(streams: Sequence[ReplyStream]) -> dict[str, Any]:
    return usage_in(total([[stream.reply.usage for stream in streams]]))


def _log(request: Request, streams: Sequence[ReplyStream]) -> None:
    reasons = [str(stream.reply.finish_reason) for stream in streams]
    usage = total([[stream.reply.usage for stream in streams]])
    log_reply(request, usage, ",".join(reasons))


async def _events(
    wanted: ChatAsked, state: State, streams: Sequence[ReplyStream], tickets: Tickets, request: Request
) -> AsyncIterator[ServerSentEvent]:
    head = _head("chat.completion.chunk", state)
    if wanted.wants_usage:
        head["usage"] = None
    writers = [ChoiceWriter(i, wanted.asked, state) for i in range(wanted.n)]
    async with tickets, contextlib.aclosing(tickets.outputs()) as outputs:
        for writer in writers:
            yield sse({**head, "choices": [writer.begin()]})
        try:
            async for number, output in outputs:
                for choice in writers[number].write(output.events, output.piece.logprobs):
                    yield sse({**head, "choices": [choice]})
                if output.ended:
                    yield sse({**head, "choices": [writers[number].end(streams[number].reply, output)]})
        except CommandRError as error:
            yield sse(openai_error(error))
            return
        _log(request, streams)
        if wanted.wants_usage:
            yield sse({**head, "choices": [], "usage": _usage(streams)})
        yield DONE


class ChoiceWriter:
    """The chunks of one reply."""

    def __init__(self, index: int, asked: Asked, state: State) -> None:
        self._index = index
        self._asked = asked
        self._state = state
        self._n_calls = 0
        self._n_citations = 0
        self._logprobs: list[Logprobs] = []
        """Of tokens whose text is still to come."""

    def begin(self) -> dict[str, Any]:
        """The first."""
        return self._choice({"role": "assistant", "content": "", "refusal": None})

    def write(self, events: Sequence[Event], logprobs: Sequence[Logprobs]) -> Iterator[dict[str, Any]]:
        """What one step of the model gave, if it is anything to see."""
        self._logprobs += logprobs
        delta: dict[str, Any] = {}
        for event in events:
            if isinstance(event, Text):
                delta["content"] = delta.get("content", "") + event.text
            elif isinstance(event, Plan):
                delta["reasoning_content"] = delta.get("reasoning_content", "") + event.text
            elif isinstance(event, ToolCall):
                delta.setdefault("tool_calls", []).append({"index": self._n_calls, **new_call(event)})
                self._n_calls += 1
            elif isinstance(event, Citation) and self._asked.cites:
                delta.setdefault("citations", []).append(_citation(self._n_citations, event, self._asked))
                self._n_citations += 1
        if delta:
            yield self._choice(delta)

    def end(self, reply: Reply, last: Output) -> dict[str, Any]:
        """The last. Raises StoppingError: see `finish_reason`."""
        reason = finish_reason(reply.finish_reason, timed_out=last.timed_out, has_calls=bool(reply.tool_calls))
        return self._choice({}, reason)

    def _choice(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        logprobs = None
        if self._logprobs:
            logprobs = {"content": token_logprobs(self._logprobs, self._state.model.tokenizer), "refusal": None}
            self._logprobs = []
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
