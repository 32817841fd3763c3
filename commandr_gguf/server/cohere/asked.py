"""Requests for a chat in Cohere's two versions, as arguments of `CommandR.chat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commandr_gguf.errors import ArgumentError
from commandr_gguf.sampling import SamplingParams
from commandr_gguf.server.asked import (
    CITATION_MODES,
    MAX_STOPS,
    Asked,
    citation_mode,
    given,
    make_asked,
    message_in,
    named_documents,
    object_grammar,
)
from commandr_gguf.server.schema import brief, choice, field, inside, required, strings
from commandr_gguf.server.state import State

_TOOL_CHOICES: dict[str, str | None] = {"REQUIRED": "required", "NONE": "none"}


def asked_v2(body: Mapping[str, Any], state: State) -> Asked:
    """A request of /v2/chat. Raises ArgumentError for what cannot be, named by its field."""
    messages = [message_in(f"message {i}", message) for i, message in enumerate(required(body, "messages", list))]
    if field(body, "raw_prompting", bool):
        return _raw(body, messages, state)
    documents = named_documents(field(body, "documents", list), "doc:{}")
    tools = field(body, "tools", list)
    tool_choice = choice(body, "tool_choice", _TOOL_CHOICES, None)
    if tool_choice == "required" and not tools:
        raise ArgumentError("tool_choice 'REQUIRED' needs tools")
    thinking = field(body, "thinking", dict)
    with inside("thinking"):
        reasoning = choice(thinking or {}, "type", {"ENABLED": True, "DISABLED": False}, None)
    if reasoning and state.model.takes_steps_when_asked:
        raise ArgumentError("thinking cannot be enabled: this model's prompt has no such switch")
    mode = citation_mode(body)
    options = _options(body, state) | given(
        tools=None if tool_choice == "none" else tools or None,
        require_tool=True if tool_choice == "required" else None,
        grammar=_response_grammar(body),
        reasoning=None if state.model.takes_steps_when_asked else reasoning,
    )
    if field(body, "logprobs", bool, False):
        options["top_logprobs"] = 0
    return make_asked(messages, documents, mode, options, body, state)


def asked_v1(body: Mapping[str, Any], state: State) -> Asked:
    """A request of /v1/chat. Raises ArgumentError for what cannot be, named by its field."""
    for name in ("connectors", "conversation_id"):
        if body.get(name) and not (name == "connectors" and body.get("search_queries_only")):
            raise ArgumentError(f"{name} is not supported by this server")
    message = required(body, "message", str)
    results = field(body, "tool_results", list)
    if not message and not results:
        raise ArgumentError("message is empty, and there are no tool_results")
    if field(body, "raw_prompting", bool):
        return _raw(body, [{"role": "user", "content": message}], state)
    messages = [*_preamble(body), *_history(field(body, "chat_history", list, []) or [])]
    if message:
        messages.append({"role": "user", "content": message})
    messages += _results(results or [], len(messages))
    documents = named_documents(field(body, "documents", list), "doc_{}")
    options = _options(body, state) | given(
        tools=field(body, "tools", list) or None,
        multi_step=False if field(body, "force_single_step", bool) else None,
        grammar=_response_grammar(body),
    )
    mode = choice(body, "citation_quality", CITATION_MODES, "accurate")
    return make_asked(messages, documents, mode, options, body, state)


def _raw(body: Mapping[str, Any], messages: list[dict[str, Any]], state: State) -> Asked:
    """A request whose one message is the whole prompt, as the model is to read it."""
    for name in ("documents", "tools", "tool_results", "chat_history", "preamble", "search_queries_only"):
        if body.get(name):
            raise ArgumentError(f"{name} cannot be given with raw_prompting: the message is the whole prompt")
    prompt = messages[0].get("content") if len(messages) == 1 and messages[0].get("role") == "user" else None
    if not isinstance(prompt, str) or not prompt:
        raise ArgumentError("with raw_prompting there must be one message, of the user, with a text")
    options = _options(body, state) | given(grammar=_response_grammar(body))
    if field(body, "logprobs", bool, False):
        options["top_logprobs"] = 0
    stream = bool(field(body, "stream", bool, False))
    return Asked(messages, options, stream, frozenset(), cites=False, thinks_aloud=False, prompt=prompt)


def _options(body: Mapping[str, Any], state: State) -> dict[str, Any]:
    """What both versions have."""
    sampling = {
        "temperature": field(body, "temperature", float),
        "top_k": _renamed(body, "k", "top_k", int),
        "top_p": _renamed(body, "p", "top_p", float),
        "seed": field(body, "seed", int),
        "frequency_penalty": field(body, "frequency_penalty", float),
        "presence_penalty": field(body, "presence_penalty", float),
    }
    return {
        **state.sampling(sampling),
        "max_tokens": state.max_tokens(body, "max_tokens"),
        "stop": strings(body, "stop_sequences", MAX_STOPS),
    }


def _renamed(body: Mapping[str, Any], name: str, ours: str, kind: type[Any]) -> Any:
    """A field that has another name in `SamplingParams`, so that an error speaks of the field."""
    value = field(body, name, kind)
    try:
        return value if value is None else getattr(SamplingParams(**{ours: value}), ours)
    except ArgumentError as error:
        raise ArgumentError(str(error).replace(ours, name, 1)) from None


def _response_grammar(body: Mapping[str, Any]) -> str | None:
    """What a reply in JSON must keep to. The schema is `json_schema` in version 2 and `schema` in version 1."""
    form = field(body, "response_format", dict)
    kinds = {"TEXT": False, "JSON_OBJECT": True}
    if form is None:
        return None
    with inside("response_format"):
        if not choice(form, "type", kinds, False):
            return None
    return object_grammar(field(form, "json_schema", dict) or field(form, "schema", dict))


# ---- version 1

_ROLES = {"USER": "user", "CHATBOT": "assistant", "SYSTEM": "system", "TOOL": "tool"}


def _preamble(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    preamble = field(body, "preamble", str)
    return [{"role": "system", "content": preamble}] if preamble else []


def _history(turns: Sequence[Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise ArgumentError(f"chat_history[{number}] must be an object, not {brief(turn)}")
        role = choice(turn, "role", _ROLES, None)
        if role is None:
            raise ArgumentError(f"chat_history[{number}] has no role")
        if role == "tool":
            messages += _results(field(turn, "tool_results", list, []) or [], len(messages))
            continue
        message: dict[str, Any] = {"role": role, "content": field(turn, "message", str, "") or ""}
        calls = field(turn, "tool_calls", list)
        if calls:
            message["tool_calls"] = [_call(call, f"{len(messages)}:{i}") for i, call in enumerate(calls)]
        messages.append(message)
    return _without_repeated_calls(messages)


def _call(call: object, name: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise ArgumentError(f"a tool call must be an object, not {brief(call)}")
    parameters = field(call, "parameters", dict, {})
    return {
        "id": name,
        "type": "function",
        "function": {"name": required(call, "name", str), "arguments": parameters},
    }


def _results(results: Sequence[Any], number: int) -> list[dict[str, Any]]:
    """The calls that results belong to, as an assistant's message, and the results behind it."""
    calls, messages = [], []
    for i, result in enumerate(results):
        if not isinstance(result, Mapping):
            raise ArgumentError(f"tool_results[{i}] must be an object, not {brief(result)}")
        call = _call(required(result, "call", dict), f"{number}:{i}")
        outputs = required(result, "outputs", list)
        calls.append(call)
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": outputs or ""})
    return [{"role": "assistant", "content": "", "tool_calls": calls}, *messages] if calls else []


def _without_repeated_calls(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chatbot's turn with calls, and the same calls again in front of their results, are one turn."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        repeats = merged and "tool_calls" in message and "tool_calls" in merged[-1]
        merged.append({**message, "content": merged.pop()["content"]} if repeats else message)
    return merged
