"""The tool calls of a reply.

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

from commandr_gguf.chat.marks import ACTION, mark_pattern
from commandr_gguf.errors import FormatError

NO_TOOL = frozenset({"directly_answer", "directly-answer"})
"""The names by which a model says that it wants to answer without a tool."""
ACTION_MARK = re.compile(r"^[ \t]*Action:", re.MULTILINE)
"""Stands before the actions of a reply that keeps to the format; parsers take other forms of it as well."""
SPACE = r"\s{0,200}"
"""White space in the beginning of a list. The limit is there so that a parser of a stream holds back no endless run."""
_KEY = rf'\{{(?={SPACE}"(?:tool_name|parameters|tool_call_id)")'
_OBJECT = rf'\{{{SPACE}"(?:tool_name|parameters|tool_call_id)"'
MARKED_LIST = re.compile(rf"```(?:json)?{SPACE}(?P<fenced>\[|{_KEY})|(?P<bare>\[)(?={SPACE}(?:\[{SPACE})?\{{)")
"""The beginning of the actions behind their mark: a code fence with a list, or with one action that its list was
forgotten around; or a list of objects without a fence. The first of them counts: a fence within a list is a part of
some string. A list in a list is found by its outer one."""
UNMARKED_LIST = re.compile(
    rf"```(?:json)?{SPACE}(?P<fenced>\[(?={SPACE}(?:\]|(?:\[{SPACE})?{_OBJECT}))|{_KEY})"
    rf"|(?P<bare>\[)(?={SPACE}(?:\[{SPACE})?{_OBJECT})"
)
"""As MARKED_LIST, in front of any mark, where only a list counts that is empty or begins as actions do."""
EMPTY_LIST = re.compile(rf"\[(?={SPACE}\])")
_MARK = mark_pattern(ACTION)
_WANTS_NO_TOOL = re.compile(rf'"tool_name"\s*:\s*"(?:{"|".join(sorted(NO_TOOL))})"')
_SPACE = re.compile(r"[ \t\n\r]*")
_STRUCTURE, _IN_STRING = re.compile(r'["{}\[\]]'), re.compile(r'["\\]')


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to be called. `str()` gives it as Python would write the call."""

    name: str
    """As the model wrote it; it may be none of those offered."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """JSON values by name, as the model wrote them."""
    id: str = ""
    """What the model calls this call, in the formats that have a `tool_call_id`; else empty."""

    def __str__(self) -> str:
        values = (f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in self.parameters.items())
        return f"{self.name}({', '.join(values)})"


def parse_actions(reply: str) -> list[ToolCall]:
    """The tool calls of a complete reply, in its order; an empty list when the model wants to answer without a tool.

    `Action:` and the code fence may be missing, a fence may hold one action without a list, parameters that are missing
    or null count as none, and what stands around the list is left out. The first list counts, be it in front of
    `Action:`, but there it must begin as a list of actions does: with tool_name, parameters or tool_call_id.

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
    actions: list[Any] | dict[str, Any] = _decode(reply, start)
    return actions


class ActionList:
    """The actions of a reply while they are written: each call is given as soon as its object closes.

    The calls of a list that is written to its end without being refused are those of `parse_actions`.
    """

    def __init__(self, opening: str) -> None:
        """`opening` ends with `[`, or with `{` for one action without a list; what ends otherwise is refused at once.

        A first action that is refused comes with the opening.
        """
        self.count = 0
        """Actions read."""
        self.over = False
        """The list is closed or was refused; `rest` is what stands behind."""
        self.refused = ""
        """The part that is not valid: an action, or a character that may not stand where it does. When no action was
        read, all up to its end. Empty where it says that no tool is wanted."""
        self.rest = ""
        """What was written and is not read: the action that has begun, or what stands behind the list."""
        self._single = opening[-1] == "{"
        self._expected = "action" if self._single else "action or end"
        self._depth = 0
        self._in_string = False
        self._scanned = 0
        self._written = [opening]
        if self._single:
            self.rest = "{"
        elif opening[-1] != "[":
            self._refuse(0)

    def write(self, text: str) -> list[ToolCall]:
        """Add text; returns the calls that it completes, without those that stand for "no tool"."""
        if not self.count:
            self._written.append(text)
        self.rest += text
        calls = []
        while not self.over and (self._depth or self._between()) and self._scan():
            calls += self._read()
        return calls

    @property
    def in_string(self) -> bool:
        """Whether a string of JSON has begun and not ended: what looks like a mark there is a part of it."""
        return self._in_string and not self.over

    @property
    def left_over(self) -> str:
        """What is no part of a valid list: `refused` and what stands behind; empty while the list goes on."""
        return self.refused + self.rest if self.over else ""

    def end(self) -> None:
        """Refuse what is unfinished when no more text comes."""
        if not self.over:
            self._refuse(len(self.rest))

    def _between(self) -> bool:
        """Go on to the next action; whether there is one."""
        while not self.over:
            space = _SPACE.match(self.rest)
            self.rest = self.rest[space.end() if space else 0 :]
            if not self.rest:
                return False
            first = self.rest[0]
            if first == "{" and "action" in self._expected:
                return True
            if first == "," and self._expected == "comma or end":
                self._expected = "action"
                self.rest = self.rest[1:]
            elif first == "]" and "end" in self._expected:
                self.rest = self.rest[1:]
                self.over = True
            else:
                self._refuse(1)
        return False

    def _scan(self) -> bool:
        """Go on in an object; whether it closes."""
        while True:
            found = (_IN_STRING if self._in_string else _STRUCTURE).search(self.rest, self._scanned)
            if found is None:
                self._scanned = len(self.rest)
                return False
            character = found[0]
            self._scanned = found.end()
            if character == "\\":
                if found.end() == len(self.rest):
                    self._scanned = found.start()
                    return False
                self._scanned += 1
            elif character == '"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if character in "{[" else -1
                if not self._depth:
                    return True

    def _read(self) -> list[ToolCall]:
        end, self._scanned = self._scanned, 0
        try:
            call = _call(self.count, _decode(self.rest[:end], 0))
        except FormatError:
            self._refuse(end)
            return []
        self.rest = self.rest[end:]
        self.count += 1
        self.over = self._single
        self._expected = "comma or end"
        return [] if call.name in NO_TOOL else [call]

    def _refuse(self, end: int) -> None:
        refused, self.rest = self.rest[:end], self.rest[end:]
        if not self.count:
            refused = "".join(self._written)
            refused = refused[: len(refused) - len(self.rest)]
        self.refused = "" if _WANTS_NO_TOOL.search(refused) else refused
        self.over = True


def _decode(text: str, start: int) -> Any:
    # Models break long strings into lines, which strict JSON forbids.
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_number, parse_float=_finite)
    try:
        return decoder.raw_decode(text, start)[0]
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the reply's list of actions is not valid JSON: {error}") from error


def _json_start(reply: str) -> int | None:
    mark = _MARK.search(reply)
    actions = UNMARKED_LIST.search(reply)
    if mark is not None and (actions is None or mark.start() < actions.start()):
        actions = MARKED_LIST.search(reply, mark.end())
    if actions is not None:
        return actions.start(actions.lastgroup or 0)
    if mark is None:
        empty = EMPTY_LIST.search(reply)
        return None if empty is None else empty.start()
    bracket = reply.find("[", mark.end())
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
    identifier = action.get("tool_call_id")
    return ToolCall(name, parameters, str(identifier) if isinstance(identifier, (str, int)) else "")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number
