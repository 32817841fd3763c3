"""POST /v2/chat."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.events import Event, Finish, Plan, Text
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.visible import Citation
from commandr_gguf.errors import CommandRError
from commandr_gguf.generation import Piece
from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.server.asked import Asked
from commandr_gguf.server.cohere.asked import asked_v2
from commandr_gguf.server.cohere.forms import call_id, finish_reason, new_id, timings, usage
from commandr_gguf.server.errors import message_of
from commandr_gguf.server.replies import citation_in, log_reply
from commandr_gguf.server.state import State
from commandr_gguf.server.stream import Ticket


async def chat_v2(request: Request, state: State) -> Response:
    """Answer a conversation, at once or as a stream of events."""
    body = await state.body(request)
    asked = asked_v2(body, state)
    stream, ticket = await state.ask(lambda: asked.begin(state.model))
    if asked.stream:
        return EventSourceResponse(_events(asked, stream, ticket, request), sep="\n")
    last = await ticket.finish(request.receive)
    reply = stream.reply
    reason = finish_reason(reply, stream, timed_out=last.timed_out)
    log_reply(request, reply.usage, reason)
    return JSONResponse(_response(reply, reason, asked))


def _response(reply: Reply, reason: str, asked: Asked) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if asked.thinks_aloud and reply.plan:
        content.append({"type": "thinking", "thinking": reply.plan})
    if reply.text:
        content.append({"type": "text", "text": reply.text})
    message: dict[str, Any] = {"role": "assistant"}
    if content:
        message["content"] = content
    if reply.tool_calls:
        message["tool_calls"] = [_call(call) for call in reply.tool_calls]
    if reply.plan and not asked.thinks_aloud:
        message["tool_plan"] = reply.plan
    if reply.citations and asked.cites:
        message["citations"] = [_citation(citation, len(content) - 1, asked) for citation in reply.citations]
    answer: dict[str, Any] = {"id": new_id(), "finish_reason": reason, "message": message, "usage": usage(reply)}
    if "top_logprobs" in asked.options:
        answer["logprobs"] = [{"token_ids": [item.token], "logprobs": [item.logprob]} for item in reply.logprobs]
    return answer


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.parameters, ensure_ascii=False)
    return {"id": call_id(call), "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _citation(citation: Citation, content_index: int, asked: Asked) -> dict[str, Any]:
    return {**citation_in(citation, asked.document_ids), "content_index": content_index, "type": "TEXT_CONTENT"}


async def _events(
    asked: Asked, stream: ReplyStream, ticket: Ticket, request: Request
) -> AsyncIterator[ServerSentEvent]:
    writer = EventWriter(asked)
    async with ticket:
        for event in writer.begin():
            yield _sse(event)
        try:
            async for output in ticket:
                for event in writer.write(output.events, output.piece):
                    yield _sse(event)
                if output.ended:
                    reply = stream.reply
                    reason = finish_reason(reply, stream, timed_out=output.timed_out)
                    log_reply(request, reply.usage, reason)
                    for event in writer.end({"finish_reason": reason, "usage": usage(reply)}, timings(reply)):
                        yield _sse(event)
        except CommandRError as error:
            for event in writer.end({"finish_reason": "ERROR", "error": message_of(error)}):
                yield _sse(event)


def _sse(event: dict[str, Any]) -> ServerSentEvent:
    # In ASCII, since some readers of event streams take U+2028 for a line's end.
    return ServerSentEvent(data=json.dumps(event), event=event["type"], sep="\n")


class EventWriter:
    """Cohere's events of one reply, in Cohere's order."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._id = new_id()
        self._open: str | None = None
        """The kind of content that is being written."""
        self._n_contents = 0
        self._n_calls = 0
        self._n_citations = 0
        self._logprobs: dict[str, Any] | None = None

    def begin(self) -> Iterator[dict[str, Any]]:
        """The first event."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": [],
            "tool_plan": "",
            "tool_calls": [],
            "citations": [],
        }
        yield {"type": "message-start", "id": self._id, "delta": {"message": message}}

    def write(self, events: list[Event], piece: Piece) -> Iterator[dict[str, Any]]:
        """What one step of the model gave."""
        if piece.logprobs:
            # Those of a step that shows no text wait for the next that does.
            waiting = self._logprobs or {"text": "", "token_ids": [], "logprobs": []}
            self._logprobs = {
                "text": waiting["text"] + piece.text,
                "token_ids": [*waiting["token_ids"], *(item.token for item in piece.logprobs)],
                "logprobs": [*waiting["logprobs"], *(item.logprob for item in piece.logprobs)],
            }
        for event in events:
            if isinstance(event, Text):
                yield from self._content("text", event.text)
            elif isinstance(event, Plan) and self._asked.thinks_aloud:
                yield from self._content("thinking", event.text)
            elif isinstance(event, Plan):
                yield {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": event.text}}}
            elif isinstance(event, ToolCall):
                yield from self._call(event)
            elif isinstance(event, Citation) and self._asked.cites:
                yield from self._cite(event)
            elif isinstance(event, Finish):
                yield from self._close()

    def end(self, delta: dict[str, Any], more: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """The last events; `more` stands beside what Cohere's says."""
        yield from self._close()
        yield {"type": "message-end", "id": self._id, "delta": delta, **(more or {})}

    def _content(self, kind: str, text: str) -> Iterator[dict[str, Any]]:
        if self._open != kind:
            yield from self._close()
            self._open = kind
            start = {"type": kind, kind: ""}
            yield {"type": "content-start", "index": self._n_contents, "delta": {"message": {"content": start}}}
        delta = {"message": {"content": {kind: text}}}
        event: dict[str, Any] = {"type": "content-delta", "index": self._n_contents, "delta": delta}
        if self._logprobs is not None:
            event["logprobs"], self._logprobs = self._logprobs, None
        yield event

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            self._open = None
            yield {"type": "content-end", "index": self._n_contents}
            self._n_contents += 1

    def _call(self, call: ToolCall) -> Iterator[dict[str, Any]]:
        yield from self._close()
        whole, index = _call(call), self._n_calls
        self._n_calls += 1
        arguments = whole["function"]["arguments"]
        start = {**whole, "function": {"name": call.name, "arguments": ""}}
        yield {"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": start}}}
        more = {"function": {"arguments": arguments}}
        yield {"type": "tool-call-delta", "index": index, "delta": {"message": {"tool_calls": more}}}
        yield {"type": "tool-call-end", "index": index}

    def _cite(self, citation: Citation) -> Iterator[dict[str, Any]]:
        index = self._n_citations
        self._n_citations += 1
        # The text it stands in may be closed by now: it is the last that was begun.
        content_index = max(self._n_contents - (self._open is None), 0)
        cited = _citation(citation, content_index, self._asked)
        yield {"type": "citation-start", "index": index, "delta": {"message": {"citations": cited}}}
        yield {"type": "citation-end", "index": index}
