"""Requests of /v1/responses in its plain form: nothing is stored, and tools are functions of the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.server.asked import Asked, given
from commandr_gguf.server.openai.chat_asked import asked_with_documents, chat_message, reasoning
from commandr_gguf.server.openai.options import MAX_TOP_LOGPROBS, refuse, sampling_options, stop_strings
from commandr_gguf.server.openai.tools import form_grammar, tool_options
from commandr_gguf.server.schema import brief, field, inside, required, strings
from commandr_gguf.server.state import State

_LOGPROBS = "message.output_text.logprobs"
_TEXTS = ("input_text", "output_text", "reasoning_text", "text")


@dataclass(frozen=True)
class ResponseAsked:
    """A checked request."""

    asked: Asked
    told: dict[str, Any]
    """What answers repeat of it."""


def response_asked(body: Mapping[str, Any], state: State) -> ResponseAsked:
    """A request of /v1/responses. Raises ArgumentError for what cannot be, named by its field."""
    refuse(body, "previous_response_id", "conversation", "prompt", "background", "max_tool_calls")
    tools = [_tool(number, tool) for number, tool in enumerate(field(body, "tools", list, []) or [])]
    form = field(field(body, "text", dict, {}) or {}, "format", dict)
    limit = field(body, "max_output_tokens", int)
    with inside("reasoning"):
        effort = field(field(body, "reasoning", dict, {}) or {}, "effort", str)
    options = {
        **sampling_options(body, state),
        "max_tokens": state.max_tokens(body, "max_output_tokens"),
        "stop": stop_strings(body),
        **tool_options(tools, body),
        **given(
            grammar=form_grammar(form, "text.format"),
            reasoning=reasoning(effort, state),
            top_logprobs=_top_logprobs(body),
        ),
    }
    instructions = field(body, "instructions", str)
    system = [{"role": "system", "content": instructions}] if instructions else []
    asked = asked_with_documents([*system, *_messages(body)], options, body, state)
    told = {
        "instructions": instructions,
        "max_output_tokens": limit,
        "metadata": field(body, "metadata", dict, {}),
        "reasoning": {"effort": effort, "summary": None},
        "parallel_tool_calls": field(body, "parallel_tool_calls", bool, True),
        "temperature": options["temperature"],
        "top_p": options["top_p"],
        "text": {"format": form or {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [{"type": "function", "strict": False, "parameters": {}, **tool["function"]} for tool in tools],
    }
    return ResponseAsked(asked, told)


def _tool(number: int, tool: object) -> dict[str, Any]:
    """A tool in the form that /v1/chat/completions has."""
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        raise ArgumentError(f"tool {number} must be an object of the type function, not {brief(tool)}")
    keys = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {key: tool[key] for key in keys if tool.get(key) is not None}}


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    n_top = field(body, "top_logprobs", int)
    if n_top is not None:
        return integer("top_logprobs", n_top, 0, MAX_TOP_LOGPROBS)
    return 0 if _LOGPROBS in strings(body, "include") else None


# ---- input


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a conversation; calls go into the assistant's message that they followed or make one."""
    asked = body.get("input")
    if isinstance(asked, str):
        return [{"role": "user", "content": asked}]
    messages: list[dict[str, Any]] = []
    plan = ""
    for number, item in enumerate(required(body, "input", list)):
        where = f"input[{number}]"
        if not isinstance(item, Mapping):
            raise ArgumentError(f"{where} must be an object, not {brief(item)}")
        kind = item.get("type") or "message"
        if kind == "message":
            messages.append(chat_message(where, {"role": item.get("role"), "content": _content(item.get("content"))}))
        elif kind == "function_call":
            _add_call(messages, item, plan)
            plan = ""
        elif kind == "function_call_output":
            content = _content(item.get("output"))
            messages.append(
                chat_message(where, {"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
            )
        elif kind == "reasoning":  # shown in front of the calls that it led to, and nowhere else
            parts = _content(item.get("content"))
            plan = "".join(str(part.get("text", "")) for part in parts or [] if isinstance(part, Mapping))
        else:
            raise ArgumentError(f"{where} has the type {brief(kind)}, which is not supported by this server")
    return messages


def _add_call(messages: list[dict[str, Any]], item: Mapping[str, Any], plan: str) -> None:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": "", "reasoning_content": plan})
    messages[-1].setdefault("tool_calls", []).append(call)


def _content(content: Any) -> Any:
    """Parts of text by the name that messages have for them."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.get("text")} if isinstance(part, Mapping) and part.get("type") in _TEXTS else part
        for part in content
    ]
