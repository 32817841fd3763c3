"""The messages of a conversation, as chat templates take them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.documents import document_values
from commandr_gguf.errors import ArgumentError

ROLES = ("system", "user", "assistant", "tool")


class CalledFunction(TypedDict):
    """What a call names."""

    name: str
    arguments: dict[str, Any]


class Call(TypedDict):
    """A call of a tool within a message."""

    id: str
    type: str
    """function"""
    function: CalledFunction


class Result(TypedDict):
    """One document of a tool's results."""

    id: str
    data: dict[str, Any]


class _Turn(TypedDict):
    role: str
    content: str


class Message(_Turn, total=False):
    """One turn: `role`, one of ROLES, and `content`. The other keys are there only where they apply."""

    tool_plan: str
    """What the assistant thought before it called tools."""
    tool_calls: list[Call]
    """The tools that the assistant called."""
    tool_call_id: str
    """The call whose results a tool's message holds: one of those before it."""
    documents: list[Result]
    """The results when they are documents; else `content` is the result."""


def normalize(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Check messages and bring them into one form.

    A content may be a string or a list of parts `{"type": "text", "text": ...}`, whose texts are joined.

    An assistant's message may have `tool_calls`: `{"id", "type", "function": {"name", "arguments"}}` with the arguments
    as a mapping or as JSON text, `{"name", "parameters"}`, or a `ToolCall`. What it thought before them stands under
    `tool_plan` or `reasoning_content`, in a part `{"type": "thinking", "thinking": ...}`, or in its content.

    A tool's message has the result of the call `tool_call_id`; without that key it belongs to the first call that has
    no result. Its content is a text, a mapping, or a list of mappings or of parts `{"type": "document", "document":
    {"data": ...}}`; a text that is a JSON object, or a list of them, counts as these.

    The result of this function may be given to it again, and through JSON.

    Raises:
        ArgumentError: there is no message, one has an unknown role or a content of another form, or a result belongs
            to no call. That a tool is not among those offered is no error.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise ArgumentError("messages must be a list of {'role': ..., 'content': ...}")
    calls = _Calls()
    result = [_message(f"message {i}", message, calls) for i, message in enumerate(messages)]
    if not result:
        raise ArgumentError("messages must hold at least one message")
    return result


class _Calls:
    """The calls so far and which of them have a result."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._open: list[str] = []

    def add(self, where: str, name: object) -> str:
        """The id of a new call: `name`, or a number that is free where it is None."""
        if name is None:
            numbers = (str(number) for number in range(len(self._known) + 1))
            name = next(number for number in numbers if number not in self._known)
        if not isinstance(name, str) or not name:
            raise ArgumentError(f"{where} has a call with the id {name!r}; ids must be strings")
        if name in self._open:
            raise ArgumentError(f"{where} has a call with the id {name!r}, which a call without a result has already")
        self._known.add(name)
        self._open.append(name)
        return name

    def answer(self, where: str, name: object) -> str:
        """The id of the call that a result belongs to."""
        if name is None and self._open:
            name = self._open[0]
        if not isinstance(name, str) or name not in self._known:
            what = "no call" if name is None else f"the call {name!r}, which no message before it has"
            raise ArgumentError(f"{where} is the result of {what}")
        if name in self._open:
            self._open.remove(name)
        return name


def _message(where: str, message: Mapping[str, Any], calls: _Calls) -> Message:
    if not isinstance(message, Mapping):
        raise ArgumentError(f"{where} must be a mapping with 'role' and 'content', not {type(message).__name__}")
    role = message.get("role")
    if role not in ROLES:
        raise ArgumentError(f"{where} has the role {role!r}; known are {', '.join(ROLES)}")
    content = message.get("content")
    if role == "tool":
        return _result(where, message, calls)
    asked = message.get("tool_calls") or []
    if not asked:
        if role == "assistant" and isinstance(content, list):
            content = [part for part in content if not _is_part(part, "thinking")]
        return Message(role=role, content=_content(where, content))
    if role != "assistant":
        raise ArgumentError(f"{where} has tool_calls; only an assistant's message may")
    if isinstance(asked, (str, bytes, Mapping)) or not isinstance(asked, Iterable):
        raise ArgumentError(f"{where} must have a list under 'tool_calls', not {type(asked).__name__}")
    plan, content = _plan(where, message)
    tool_calls = [_call(where, call, calls) for call in asked]
    result = Message(role=role, content=content, tool_calls=tool_calls)
    if plan:
        result["tool_plan"] = plan
    return result


def _plan(where: str, message: Mapping[str, Any]) -> tuple[str, str]:
    """What an assistant thought before it called tools, and its content beside that."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    thoughts = [part.get("thinking") for part in parts if _is_part(part, "thinking")]
    if thoughts:
        content = [part for part in parts if not _is_part(part, "thinking")]
    plan = message.get("tool_plan") or message.get("reasoning_content") or "".join(map(str, thoughts))
    if not isinstance(plan, str):
        raise ArgumentError(f"{where} must have a string under 'tool_plan', not {type(plan).__name__}")
    text = "" if content is None else _content(where, content)
    return (plan, text) if plan else (text, "")


def _is_part(part: object, kind: str) -> bool:
    return isinstance(part, Mapping) and part.get("type") == kind


def _content(where: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") if _is_part(part, "text") else None for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise ArgumentError(f"{where} has a content that is neither a string nor a list of text parts")


def _call(where: str, call: object, calls: _Calls) -> Call:
    if isinstance(call, ToolCall):
        call = {"id": getattr(call, "id", None) or None, "name": call.name, "parameters": call.parameters}
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise ArgumentError(f"{where} has a call that is no mapping with 'function'")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"{where} has a call without a tool's name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments, strict=False) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ArgumentError(
                f"{where}: the arguments of the call of {name!r} are not valid JSON: {error}"
            ) from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ArgumentError(f"{where}: the arguments of the call of {name!r} must be a mapping or a JSON object")
    try:
        arguments = json.loads(json.dumps(arguments))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{where}: the arguments of the call of {name!r} are no JSON: {error}") from error
    return Call(
        id=calls.add(where, call.get("id")), type="function", function=CalledFunction(name=name, arguments=arguments)
    )


def _result(where: str, message: Mapping[str, Any], calls: _Calls) -> Message:
    call_id = calls.answer(where, message.get("tool_call_id"))
    content = message.get("content")
    found = message.get("documents")
    if found is None:
        found = _documents(content)
    if found is None:
        return Message(role="tool", content=_content(where, content), tool_call_id=call_id)
    documents = [_document(f"result {i} of {where}", item, f"{call_id}:{i}") for i, item in enumerate(found)]
    return Message(role="tool", content="", tool_call_id=call_id, documents=documents)


def _documents(content: object) -> list[Any] | None:
    """The documents that a tool's content consists of; None when it is text."""
    if isinstance(content, str):
        content = _from_json(content)
        texts = isinstance(content, list) and not all(isinstance(item, Mapping) and item for item in content)
    else:
        texts = isinstance(content, list) and bool(content) and all(_is_part(part, "text") for part in content)
    if isinstance(content, Mapping) and content:
        return [content]
    return content if isinstance(content, list) and not texts else None


def _from_json(text: str) -> object:
    try:
        return json.loads(text) if text.lstrip().startswith(("{", "[")) else None
    except (ValueError, RecursionError):
        return None


def _document(where: str, item: object, default_id: str) -> Result:
    """A result, given as a text, a mapping, a part with a document or a text, or `{"id", "data"}`."""
    if _is_part(item, "document") and isinstance(item, Mapping) and "document" in item:
        item = item["document"]
    elif _is_part(item, "text") and isinstance(item, Mapping) and item.keys() <= {"type", "text"}:
        item = item.get("text")
    name = item.get("id") if isinstance(item, Mapping) else None
    if isinstance(item, Mapping) and "data" in item and item.keys() <= {"id", "data"}:
        item = item["data"]
    data = document_values(where, item, "output")
    return Result(id=name if isinstance(name, str) and name else default_id, data=data)
