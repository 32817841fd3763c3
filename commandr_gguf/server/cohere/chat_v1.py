"""POST /v1/chat."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.events import Event, Text
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.visible import Citation
from commandr_gguf.errors import CommandRError
from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.server.asked import Asked
from commandr_gguf.server.cohere.asked import asked_v1
from commandr_gguf.server.cohere.forms import finish_reason, meta, new_id
from commandr_gguf.server.cohere.search import search_queries
from commandr_gguf.server.errors import message_of
from commandr_gguf.server.replies import log_reply
from commandr_gguf.server.schema import field
from commandr_gguf.server.state import State
from commandr_gguf.server.stream import Ticket

_ROLES = {"system": "SYSTEM", "user": "USER", "assistant": "CHATBOT"}


async def chat_v1(request: Request, state: State) -> Response:
    """Answer a message, at once or as lines of JSON."""
    body = await state.body(request)
    asked = asked_v1(body, state)
    if field(body, "search_queries_only", bool):
        queries, reply = await search_queries(asked, request, state)
        answer = _search_response(queries, reply, asked)
        return _streamed(_search_lines(answer)) if asked.stream else JSONResponse(answer)
    stream, ticket = await state.ask(lambda: asked.begin(state.model))
    if asked.stream:
        return _streamed(_lines(asked, stream, ticket, request))
    last = await ticket.finish(request.receive)
    reply = stream.reply
    reason = _reason(reply, stream, timed_out=last.timed_out)
    log_reply(request, reply.usage, reason)
    return JSONResponse(_response(reply, reason, asked, new_id()))


def _reason(reply: Reply, stream: ReplyStream, *, timed_out: bool) -> str:
    reason = finish_reason(reply, stream, timed_out=timed_out)
    return "COMPLETE" if reason == "TOOL_CALL" else reason


def _response(reply: Reply, reason: str, asked: Asked, generation_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "response_id": new_id(),
        "generation_id": generation_id,
        "text": reply.text,
        "finish_reason": reason,
        "chat_history": _history(reply, asked),
        "meta": meta(reply, "1"),
    }
    if reply.tool_calls:
        answer["text"] = reply.text or reply.plan
        answer["tool_calls"] = [_call(call) for call in reply.tool_calls]
    if reply.citations and asked.cites:
        answer["citations"] = [_citation(citation) for citation in reply.citations]
        cited = {source.id: source for citation in reply.citations for source in citation.sources}
        answer["documents"] = [{**source.document, "id": name} for name, source in cited.items()]
    return answer


def _history(reply: Reply, asked: Asked) -> list[dict[str, Any]]:
    last: dict[str, Any] = {"role": "CHATBOT", "message": reply.text}
    if reply.tool_calls:
        last["tool_calls"] = [_call(call) for call in reply.tool_calls]
    return [*_turns(asked), last]


def _turns(asked: Asked) -> list[dict[str, Any]]:
    return [
        {"role": _ROLES[message["role"]], "message": message["content"]}
        for message in asked.messages
        if message["role"] in _ROLES and "tool_calls" not in message
    ]


def _call(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "parameters": call.parameters}


def _citation(citation: Citation) -> dict[str, Any]:
    ids = [source.id for source in citation.sources]
    return {"start": citation.start, "end": citation.end, "text": citation.text, "document_ids": ids}


async def _lines(asked: Asked, stream: ReplyStream, ticket: Ticket, request: Request) -> AsyncIterator[str]:
    generation_id = new_id()
    async with ticket:
        yield _line("stream-start", generation_id=generation_id)
        reason, error = "ERROR", None
        try:
            async for output in ticket:
                for line in _events(output.events, asked):
                    yield line
                if output.ended:
                    reason = _reason(stream.reply, stream, timed_out=output.timed_out)
        except CommandRError as failure:
            error = message_of(failure)
        reply = stream.reply
        log_reply(request, reply.usage, reason)
        if reply.tool_calls:
            yield _line("tool-calls-generation", tool_calls=[_call(call) for call in reply.tool_calls])
        told = {} if error is None else {"error": error}
        response = _response(reply, reason, asked, generation_id)
        yield _line("stream-end", is_finished=True, finish_reason=reason, response=response, **told)


def _events(events: list[Event], asked: Asked) -> Iterator[str]:
    for event in events:
        if isinstance(event, Text):
            yield _line("text-generation", text=event.text)
        elif isinstance(event, Citation) and asked.cites:
            yield _line("citation-generation", citations=[_citation(event)])


def _streamed(lines: AsyncIterator[str]) -> Response:
    return StreamingResponse(lines, media_type="application/stream+json")


def _search_response(queries: Sequence[str], reply: Reply, asked: Asked) -> dict[str, Any]:
    generation_id = new_id()
    return {
        "response_id": new_id(),
        "generation_id": generation_id,
        "text": "",
        "is_search_required": bool(queries),
        "search_queries": [{"text": query, "generation_id": generation_id} for query in queries],
        "finish_reason": "MAX_TOKENS" if reply.finish_reason == "length" else "COMPLETE",
        "chat_history": _turns(asked),
        "meta": meta(reply, "1"),
    }


async def _search_lines(answer: dict[str, Any]) -> AsyncIterator[str]:
    yield _line("stream-start", generation_id=answer["generation_id"])
    yield _line("search-queries-generation", search_queries=answer["search_queries"])
    yield _line("stream-end", is_finished=True, finish_reason=answer["finish_reason"], response=answer)


def _line(event_type: str, *, is_finished: bool = False, **rest: Any) -> str:
    # In ASCII, since readers of lines may take U+2028 for a line's end.
    return json.dumps({"is_finished": is_finished, "event_type": event_type, **rest}) + "\n"
