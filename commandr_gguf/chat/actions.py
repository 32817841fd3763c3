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
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from commandr_gguf.errors import FormatError

_NO_TOOL = frozenset({"directly_answer", "directly-answer"})
_MARK = re.compile(r"^[ \t]*Action:", re.MULTILINE)
_FENCE = re.compile(r"```(?:json)?\s*(?=\[)")
_LIST_OF_OBJECTS = re.compile(r"\[(?=\s*[{\]])")


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

    `Action:` and the code fence may be missing, parameters that are missing or null count as none, and what stands
    around the list is left out.

    Raises:
        FormatError: the reply has no JSON list of actions, or one that is not valid.
    """
    start = _list_start(reply)
    if start is None:
        raise FormatError("the reply has no JSON list of actions")
    try:
        # Models break long strings into lines, which strict JSON forbids.
        actions, _ = json.JSONDecoder(strict=False, parse_constant=_no_number).raw_decode(reply, start)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the reply's list of actions is not valid JSON: {error}") from error
    calls = [_call(number, action) for number, action in enumerate(actions)]
    return [call for call in calls if call.name not in _NO_TOOL]


def _list_start(reply: str) -> int | None:
    mark = _MARK.search(reply)
    if mark is not None:
        start = reply.find("[", mark.end())
        return start if start >= 0 else None
    fence = _FENCE.search(reply)
    if fence is not None:
        return fence.end()
    bare = _LIST_OF_OBJECTS.search(reply)
    return None if bare is None else bare.start()


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
