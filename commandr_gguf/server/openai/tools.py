"""Tools, the choice of them, and forms of answers, as both of OpenAI's chat interfaces have them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.errors import ArgumentError
from commandr_gguf.server.asked import given, object_grammar
from commandr_gguf.server.openai.forms import new_id
from commandr_gguf.server.schema import brief, choice, field, inside, required

_WORDS = ("none", "auto", "required")


def tool_options(tools: Sequence[Mapping[str, Any]] | None, body: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `CommandR.chat` for tools, each `{"type": "function", "function": {"name", ...}}`.

    `tool_choice` "none" shows no tool; a name, or a list of allowed ones, shows no others.

    Raises:
        ArgumentError: a tool is no function, or the choice is of no known form, names a tool that is not offered, or
            needs tools.
    """
    names, must_call = _choice(body.get("tool_choice"))
    shown = list(tools or [])
    for number, tool in enumerate(shown):
        if isinstance(tool, Mapping) and tool.get("type", "function") != "function":
            raise ArgumentError(f"tool {number} must be of the type function, not {brief(tool['type'])}")
    if names is not None:
        offered = {_name(tool): tool for tool in shown}
        missing = next((name for name in names if name not in offered), None)
        if missing is not None:
            raise ArgumentError(f"tool_choice names {brief(missing)}, which is not among the tools")
        shown = [offered[name] for name in names]
    if must_call and not shown:
        raise ArgumentError("tool_choice 'required' needs tools")
    parallel = field(body, "parallel_tool_calls", bool)
    return given(tools=shown or None, require_tool=must_call or None, parallel_calls=None if not shown else parallel)


def form_grammar(form: Mapping[str, Any] | None, where: str) -> str | None:
    """What an answer must keep to: nothing, any JSON object, or `json_schema`, whose keys may also stand in the form.

    Raises:
        ArgumentError: the form is not known, or the schema cannot be enforced.
    """
    if form is None:
        return None
    kinds = {name.upper(): name for name in ("text", "json_object", "json_schema")}
    with inside(where):
        kind = choice(form, "type", kinds, "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return object_grammar(None)
    described = field(form, "json_schema", dict) or form
    if described.get("schema") is None:
        raise ArgumentError(f"{where} of the type json_schema has no schema")
    return object_grammar(required(described, "schema", dict))


def new_call(call: ToolCall) -> dict[str, Any]:
    """A call that results will name by its id."""
    arguments = json.dumps(call.parameters, ensure_ascii=False)
    return {"id": new_id("call_"), "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _choice(tool_choice: object) -> tuple[list[str] | None, bool]:
    """The names of the tools to be shown, None for all, and whether one must be called."""
    if tool_choice is None or isinstance(tool_choice, str):
        word = tool_choice or "auto"
        if word not in _WORDS:
            raise ArgumentError(f"tool_choice must be {', '.join(_WORDS)} or an object, not {brief(tool_choice)}")
        return ([] if word == "none" else None), word == "required"
    if isinstance(tool_choice, Mapping) and tool_choice.get("type") == "function":
        return [_name(tool_choice)], True
    if isinstance(tool_choice, Mapping) and tool_choice.get("type") == "allowed_tools":
        allowed = field(tool_choice, "allowed_tools", dict) or tool_choice
        names = [_name(tool) for tool in required(allowed, "tools", list)]
        return list(dict.fromkeys(names)), choice(allowed, "mode", {"AUTO": False, "REQUIRED": True}, False)
    raise ArgumentError(f"tool_choice must have the type function or allowed_tools, not {brief(tool_choice)}")


def _name(tool: object) -> str:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise ArgumentError(f"a tool must be an object with the name of a function, not {brief(tool)}")
    return name
