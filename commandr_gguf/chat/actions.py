"""The tool calls of a complete reply.

A model that was offered tools writes

    Action: ```json
    [
        {
            "tool_name": "search_flights",
            "parameters": {
                "city": "Toronto"
            }
        }
    ]```

perhaps after a plan in plain words. The tool `directly-answer`, or `directly_answer`, stands for "no tool".
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from commandr_gguf.errors import FormatError

NO_TOOL = frozenset({"directly_answer", "directly-answer"})
"""The names by which a model says that it wants to answer without a tool."""
ACTION_MARK = re.compile(r"^[ \t]*Action:", re.MULTILINE)
"""Stands before the actions of a reply that keeps to the format."""
# A code fence with a list, or with one action that its list was forgotten around; or a list of objects without a fence.
# The first of them counts: a fence within a list is a part of some string. A list in a list is found by its outer one.
_ACTIONS = re.compile(
    r"""```(?:json)?\s*(?P<fenced>\[|\{(?=\s*"(?:tool_name|parameters)"))|(?P<bare>\[)(?=\s*(?:\[\s*)?\{)"""
)
_EMPTY_LIST = re.compile(r"\[(?=\s*\])")


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to be called. `str()` gives it as Python would write the call."""

    name: str
    """As the model wrote it; it may be none of those offered."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """JSON values by name, as the model wrote them."""

    def __str__(self) -> str:
        values = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in self.parameters.items())
        return f"{self.name}({', '.join(values)})"


def parse_actions(reply: str) -> list[ToolCall]:
    """The tool calls of a complete reply, in its order; an empty list when the model wants to answer without a tool.

    `Action:` and the code fence may be missing, a fence may hold one action without a list, parameters that are missing
    or null count as none, and what stands around the list is left out.

    Raises:
        FormatError: the reply has no JSON list of actions, or one that is not valid.
    """
    return [call for call in parse_calls(reply) if call.name not in NO_TOOL]


def parse_calls(reply: str) -> list[ToolCall]:
    """As `parse_actions`, with the calls that stand for "no tool"."""
    actions = decode_actions(reply)
    return [_call(number, action) for number, action in enumerate(actions if isinstance(actions, list) else [actions])]


def decode_actions(reply: str) -> list[Any] | dict[str, Any]:
    """The JSON value that `parse_actions` reads, as the model wrote it: a list, or an object that no list is around.

    Its items are not looked at.

    Raises:
        FormatError: the reply has no JSON list of actions, or what looks like it is not valid JSON.
    """
    start = _json_start(reply)
    if start is None:
        raise FormatError("the reply has no JSON list of actions")
    # Models break long strings into lines, which strict JSON forbids.
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_number, parse_float=_finite)
    try:
        actions: list[Any] | dict[str, Any] = decoder.raw_decode(reply, start)[0]
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the reply's list of actions is not valid JSON: {error}") from error
    return actions


def _json_start(reply: str) -> int | None:
    mark = ACTION_MARK.search(reply)
    start = 0 if mark is None else mark.end()
    actions = _ACTIONS.search(reply, start)
    if actions is not None:
        return actions.start(actions.lastgroup or 0)
    if mark is None:
        empty = _EMPTY_LIST.search(reply)
        return None if empty is None else empty.start()
    bracket = reply.find("[", start)
    return bracket if bracket >= 0 else None


def _call(number: int, action: object) -> ToolCall:
    if not isinstance(action, Mapping):
        raise FormatError(f"action {number} of the reply is no JSON object")
    name = action.get("tool_name")
    if not isinstance(name, str) or not name:
        raise FormatError(f"action {number} of the reply has no tool_name")
    parameters = action.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise FormatError(f"action {number} of the reply, {name!r}, has parameters that are no JSON object")
    return ToolCall(name, parameters)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number
