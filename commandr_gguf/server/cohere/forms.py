"""Parts of replies in the forms that both versions of Cohere's interface share."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.reply import Reply
from commandr_gguf.reply_stream import ReplyStream

API_VERSION_1 = {"api_version": {"version": "1"}}


def new_id() -> str:
    """The id of a reply."""
    return str(uuid.uuid4())


def call_id(call: ToolCall) -> str:
    """The id of a tool call, which results will name."""
    return f"{call.name}_{secrets.token_hex(6)}"


def finish_reason(reply: Reply, stream: ReplyStream, *, timed_out: bool) -> str:
    """Why a reply ended, in Cohere's words."""
    if reply.finish_reason == "cancelled":
        return "TIMEOUT" if timed_out else "ERROR"
    if reply.finish_reason == "length":
        return "MAX_TOKENS"
    if stream.reader.stopped_early:
        return "STOP_SEQUENCE"
    return "TOOL_CALL" if reply.tool_calls else "COMPLETE"


def usage(reply: Reply) -> dict[str, Any]:
    """Numbers of tokens."""
    tokens = {"input_tokens": reply.usage.prompt_tokens, "output_tokens": reply.usage.completion_tokens}
    return {"billed_units": dict(tokens), "tokens": tokens, "cached_tokens": reply.usage.cached_tokens}


def timings(reply: Reply) -> dict[str, Any]:
    """What Cohere does not tell: the seconds that the prompt and the tokens after the first one took."""
    taken = reply.timings
    return {
        "timings": {
            "prefill_seconds": taken.prefill_seconds,
            "prefill_tokens": taken.prefill_tokens,
            "decode_seconds": taken.decode_seconds,
            "decode_tokens": taken.decode_tokens,
        }
    }


def meta(reply: Reply, version: str) -> dict[str, Any]:
    """What version 1 says beside a reply."""
    return {"api_version": {"version": version}, **usage(reply)}
