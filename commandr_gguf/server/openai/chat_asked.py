"""Requests of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.server.asked import Asked, citation_mode, given, make_asked, message_in, named_documents
from commandr_gguf.server.openai.options import (
    MAX_TOP_LOGPROBS,
    n_choices,
    refuse,
    sampling_options,
    stop_strings,
    wants_usage,
)
from commandr_gguf.server.openai.tools import form_grammar, tool_options
from commandr_gguf.server.schema import field, required
from commandr_gguf.server.state import State


@dataclass(frozen=True)
class ChatAsked:
    """A checked request."""

    asked: Asked
    n: int
    """How many replies are wanted."""
    wants_usage: bool
    """At the end of a stream."""


def chat_asked(body: Mapping[str, Any], state: State) -> ChatAsked:
    """A request of /v1/chat/completions. Raises ArgumentError for what cannot be, named by its field."""
    refuse(body, "functions", "function_call", "audio", "web_search_options")
    if any(mode != "text" for mode in field(body, "modalities", list) or []):
        raise ArgumentError("modalities may be ['text'] only")
    options = {
        **sampling_options(body, state),
        "max_tokens": state.max_tokens(body, "max_completion_tokens", "max_tokens"),
        "stop": stop_strings(body),
        **tool_options(field(body, "tools", list), body),
        **given(
            grammar=form_grammar(field(body, "response_format", dict), "response_format"),
            reasoning=reasoning(field(body, "reasoning_effort", str), state),
            top_logprobs=_top_logprobs(body),
        ),
    }
    messages = [chat_message(f"message {i}", message) for i, message in enumerate(required(body, "messages", list))]
    asked = asked_with_documents(messages, options, body, state)
    return ChatAsked(asked, n_choices(body, state), wants_usage(body))


def asked_with_documents(
    messages: list[dict[str, Any]], options: Mapping[str, Any], body: Mapping[str, Any], state: State
) -> Asked:
    """A request with the fields that are this server's own: `documents` and `citation_options`, as Cohere has them."""
    documents = named_documents(field(body, "documents", list), "doc:{}")
    return make_asked(messages, documents, citation_mode(body), options, body, state)


def chat_message(where: str, message: object) -> dict[str, Any]:
    """A message with the roles that the model knows: a developer is the system."""
    result = message_in(where, message)
    if result.get("role") == "developer":
        result["role"] = "system"
    if result.get("role") == "assistant" and result.get("content") is None:
        result["content"] = ""
    return result


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    n_top = field(body, "top_logprobs", int)
    if n_top is not None:
        integer("top_logprobs", n_top, 0, MAX_TOP_LOGPROBS)
    if field(body, "logprobs", bool, False):
        return n_top or 0
    if n_top:
        raise ArgumentError("top_logprobs needs logprobs to be true")
    return None


def reasoning(effort: str | None, state: State) -> bool | None:
    """Whether the model is to think first: "none" keeps those from it that can."""
    return False if effort == "none" and not state.model.takes_steps_when_asked else None
