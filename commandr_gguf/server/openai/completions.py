"""POST /v1/completions."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.errors import ArgumentError, CommandRError, integer
from commandr_gguf.generation import Piece
from commandr_gguf.sampling import Logprobs
from commandr_gguf.server.openai.errors import openai_error
from commandr_gguf.server.openai.forms import DONE, finish_reason, new_id, sse, total, usage_in
from commandr_gguf.server.openai.logprobs import text_logprobs
from commandr_gguf.server.openai.options import (
    MAX_TOP_LOGPROBS,
    n_choices,
    of_choice,
    refuse,
    sampling_options,
    stop_strings,
    wants_usage,
)
from commandr_gguf.server.openai.prompts import prompts_in
from commandr_gguf.server.replies import log_reply
from commandr_gguf.server.schema import field
from commandr_gguf.server.state import State
from commandr_gguf.server.stream import Tickets
from commandr_gguf.stream import GenerationStream
from commandr_gguf.usage import Usage

DEFAULT_MAX_TOKENS = 16
"""As in OpenAI's interface."""


async def completions(request: Request, state: State) -> Response:
    """Continue texts or tokens, at once or as a stream of chunks."""
    body = await state.body(request)
    refuse(body, "echo", "suffix")
    prompts = prompts_in(body, "prompt", state)
    n = n_choices(body, state, len(prompts))
    if field(body, "best_of", int, n) != n:
        raise ArgumentError("best_of is not supported by this server, unless it is n")
    options = _options(body, state)

    def begin(prompt: str | list[int], number: int) -> GenerationStream:
        return state.model.generate(prompt, stream=True, **of_choice(options, number))

    begins = [functools.partial(begin, prompt, i) for prompt in prompts for i in range(n)]
    streams, tickets = await state.ask_all(begins)
    if field(body, "stream", bool, False):
        events = _events(streams, tickets, state, request, n=n, with_usage=wants_usage(body), options=options)
        return EventSourceResponse(events, sep="\n")
    lasts = await tickets.finish(request.receive)
    _log(request, streams, n)
    choices = []
    for i, (stream, last) in enumerate(zip(streams, lasts, strict=True)):
        result = stream.result
        reason = finish_reason(result.finish_reason, timed_out=last.timed_out)
        logprobs = _logprobs(result.logprobs, 0, options, state)
        choices.append({"index": i, "text": result.text, "logprobs": logprobs, "finish_reason": reason})
    return JSONResponse({**_head(state), "choices": choices, "usage": usage_in(_usage(streams, n))})


def _options(body: Mapping[str, Any], state: State) -> dict[str, Any]:
    options = {
        **sampling_options(body, state),
        "max_tokens": state.max_tokens({"max_tokens": DEFAULT_MAX_TOKENS, **body}, "max_tokens"),
        "stop": stop_strings(body),
    }
    n_top = field(body, "logprobs", int)
    if n_top is not None:
        options["top_logprobs"] = integer("logprobs", n_top, 0, MAX_TOP_LOGPROBS)
    return options


def _head(state: State) -> dict[str, Any]:
    created = int(time.time())
    return {"id": new_id("cmpl-"), "object": "text_completion", "created": created, "model": state.model_name}


def _logprobs(
    items: Sequence[Logprobs], offset: int, options: Mapping[str, Any], state: State
) -> dict[str, Any] | None:
    return text_logprobs(items, state.model.tokenizer, offset) if "top_logprobs" in options else None


def _usage(streams: Sequence[GenerationStream], n: int) -> Usage:
    usages = [stream.result.usage for stream in streams]
    return total([usages[i : i + n] for i in range(0, len(usages), n)])


def _log(request: Request, streams: Iterable[GenerationStream], n: int) -> None:
    ended = list(streams)
    reasons = ",".join(str(stream.result.finish_reason) for stream in ended)
    log_reply(request, _usage(ended, n), reasons)


async def _events(
    streams: Sequence[GenerationStream],
    tickets: Tickets,
    state: State,
    request: Request,
    *,
    n: int,
    with_usage: bool,
    options: Mapping[str, Any],
) -> AsyncIterator[ServerSentEvent]:
    head = _head(state)
    if with_usage:
        head["usage"] = None
    n_written = [0] * len(streams)
    async with tickets, contextlib.aclosing(tickets.outputs()) as outputs:
        try:
            async for number, output in outputs:
                piece = output.piece
                logprobs = _logprobs(piece.logprobs, n_written[number], options, state) if piece.logprobs else None
                n_written[number] += len(piece.text)
                reason = None
                if output.ended:
                    reason = finish_reason(streams[number].result.finish_reason, timed_out=output.timed_out)
                if _says_something(piece, reason):
                    choice = {"index": number, "text": piece.text, "logprobs": logprobs, "finish_reason": reason}
                    yield sse({**head, "choices": [choice]})
        except CommandRError as error:
            yield sse(openai_error(error))
            return
        _log(request, streams, n)
        if with_usage:
            yield sse({**head, "choices": [], "usage": usage_in(_usage(streams, n))})
        yield DONE


def _says_something(piece: Piece, reason: str | None) -> bool:
    return bool(piece.text or piece.logprobs or reason)
