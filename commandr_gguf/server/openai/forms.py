"""Parts of replies that OpenAI's interfaces share."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from sse_starlette.event import ServerSentEvent

from commandr_gguf.server.errors import StoppingError
from commandr_gguf.usage import FinishReason, Usage

DONE = ServerSentEvent(data="[DONE]", sep="\n")
"""Ends a stream."""


def new_id(kind: str) -> str:
    """An id, such as chatcmpl-1f..."""
    return f"{kind}{secrets.token_hex(12)}"


def sse(data: Mapping[str, Any], event: str | None = None) -> ServerSentEvent:
    """An event of a stream."""
    # In ASCII, since some readers of event streams take U+2028 for a line's end.
    return ServerSentEvent(data=json.dumps(data), event=event, sep="\n")


def finish_reason(reason: FinishReason | None, *, timed_out: bool, has_calls: bool = False) -> str:
    """Why a reply ended; one whose time was up was cut for its length.

    Raises:
        StoppingError: it was cancelled for another reason.
    """
    if reason == "cancelled" and not timed_out:
        raise StoppingError("the reply was cancelled: the server is stopping")
    if reason != "stop":
        return "length"
    return "tool_calls" if has_calls else "stop"


def total(usages: Sequence[Sequence[Usage]]) -> Usage:
    """Tokens of all replies together.

    Args:
        usages: for each prompt those of its replies. A prompt counts once, however many replies it has.
    """
    firsts = [replies[0] for replies in usages]
    return Usage(
        prompt_tokens=sum(first.prompt_tokens for first in firsts),
        cached_tokens=sum(first.cached_tokens for first in firsts),
        completion_tokens=sum(usage.completion_tokens for replies in usages for usage in replies),
    )


def usage_in(usage: Usage) -> dict[str, Any]:
    """Numbers of tokens."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
