"""POST /v1/responses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.chat.events import Event, Plan, Text
from commandr_gguf.chat.reply import Reply
from commandr_gguf.errors import CommandRError
from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.server.errors import message_of
from commandr_gguf.server.openai.forms import finish_reason, new_id, sse
from commandr_gguf.server.openai.response_events import ResponseWriter
from commandr_gguf.server.openai.responses_asked import ResponseAsked, response_asked
from commandr_gguf.server.replies import log_reply
from commandr_gguf.server.state import State
from commandr_gguf.server.stream import Ticket


async def responses(request: Request, state: State) -> Response:
    """Answer input of text and items, at once or as a stream of events."""
    wanted = response_asked(await state.body(request), state)
    asked = wanted.asked
    stream, ticket = await state.ask(lambda: asked.begin(state.model))
    writer = ResponseWriter(_head(wanted, state), asked, state.model.tokenizer)
    if asked.stream:
        return EventSourceResponse(_events(writer, stream, ticket, request), sep="\n")
    last = await ticket.finish(request.receive)
    reply = stream.reply
    log_reply(request, reply.usage, str(reply.finish_reason))
    status, rest = _end(reply, timed_out=last.timed_out)
    for _ in [*writer.write(_events_of(reply), reply.logprobs), *writer.close(status)]:
        pass  # of the events only the response that they build is wanted
    return JSONResponse(writer.response(status, **rest))


def _head(wanted: ResponseAsked, state: State) -> dict[str, Any]:
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "model": state.model_name,
        "previous_response_id": None,
        "store": False,
        "truncation": "disabled",
        **wanted.told,
    }


def _events_of(reply: Reply) -> list[Event]:
    """What a stream would have told of a reply."""
    told: list[Event] = [Plan(reply.plan)] if reply.plan else []
    if reply.text:
        told.append(Text(reply.text))
    return [*told, *reply.citations, *reply.tool_calls]


def _end(reply: Reply, *, timed_out: bool) -> tuple[str, dict[str, Any]]:
    """The status of a response that has ended, and its other last fields. Raises StoppingError: see `finish_reason`."""
    is_cut = finish_reason(reply.finish_reason, timed_out=timed_out) == "length"
    rest: dict[str, Any] = {"usage": _usage(reply)}
    if is_cut:
        rest["incomplete_details"] = {"reason": "max_output_tokens"}
    return "incomplete" if is_cut else "completed", rest


def _usage(reply: Reply) -> dict[str, Any]:
    usage = reply.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


async def _events(
    writer: ResponseWriter, stream: ReplyStream, ticket: Ticket, request: Request
) -> AsyncIterator[ServerSentEvent]:
    async with ticket:
        for event in writer.begin():
            yield _sse(event)
        try:
            async for output in ticket:
                for event in writer.write(output.events, output.piece.logprobs):
                    yield _sse(event)
                if output.ended:
                    reply = stream.reply
                    log_reply(request, reply.usage, str(reply.finish_reason))
                    status, rest = _end(reply, timed_out=output.timed_out)
                    for event in writer.close(status):
                        yield _sse(event)
                    yield _sse(writer.end(writer.response(status, **rest)))
        except CommandRError as error:
            for event in writer.close("incomplete"):
                yield _sse(event)
            problem = {"code": "server_error", "message": message_of(error)}
            yield _sse(writer.end(writer.response("failed", error=problem)))


def _sse(event: dict[str, Any]) -> ServerSentEvent:
    return sse(event, event["type"])
