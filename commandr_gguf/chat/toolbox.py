"""Python functions behind the tools that a model is offered: calls of them, and what the model is told they gave."""

from __future__ import annotations

import contextvars
import dataclasses
import inspect
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.tools import Tool, normalize_tools
from commandr_gguf.errors import ArgumentError, number


@dataclass(frozen=True)
class ToolResult:
    """What a call gave."""

    call: ToolCall
    value: Any
    """What the function returned; None when it failed."""
    error: str | None
    """Why it failed, in the words that the model is told."""
    seconds: float


@dataclass
class Clock:
    """The time that a run takes, and has."""

    limit: float | None
    """Seconds; None for no limit."""
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.limit is not None:
            self.limit = number("max_seconds", self.limit)
            if math.isnan(self.limit) or self.limit < 0:
                raise ArgumentError(f"max_seconds must be 0 or more, not {self.limit}")

    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float | None:
        """Seconds until the limit, 0 behind it."""
        return None if self.limit is None else max(0.0, self.limit - self.elapsed)

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return self.left == 0.0


class Toolbox:
    """Tools with their functions."""

    def __init__(
        self,
        tools: Iterable[Mapping[str, Any] | Callable[..., Any]],
        functions: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """`tools` are functions, or descriptions whose functions stand in `functions` under their names.

        Raises:
            ArgumentError: a tool is in no form of `normalize_tools`, has no function, or one that must be awaited.
        """
        takes_parts = isinstance(tools, Iterable) and not isinstance(tools, (str, bytes, Mapping))
        offered = list(tools) if takes_parts else tools
        self.tools: list[Tool] = normalize_tools(offered)
        self._functions: dict[str, Callable[..., Any]] = {}
        for tool, given in zip(self.tools, offered, strict=True):
            name = tool["name"]
            function = (functions or {}).get(name, given)
            if not callable(function):
                raise ArgumentError(f"the tool {name!r} has no function to call")
            if inspect.iscoroutinefunction(function):
                raise ArgumentError(
                    f"the function of tool {name!r} is asynchronous; give one that waits for its result"
                )
            self._functions[name] = function
        self._required = {tool["name"]: tool["parameters"].get("required", ()) for tool in self.tools}

    def call(self, call: ToolCall, clock: Clock) -> ToolResult:
        """Call a function with the JSON values that the model wrote. Whatever exception it raises is its result.

        So is an attempt to end the program; only KeyboardInterrupt comes through. A parameter that is not required may
        be written as null, which stands for leaving it out. Where the time is limited, the function runs in another
        thread, and goes on there when it takes longer.
        """
        function = self._functions.get(call.name)
        if function is None:
            known = ", ".join(self._functions)
            return ToolResult(call, None, f"there is no tool {call.name!r}; the tools are {known}", 0.0)
        if clock.is_over:
            return ToolResult(call, None, "TimeoutError: there was no time left to call it", 0.0)
        required = self._required[call.name]
        arguments = {key: value for key, value in call.parameters.items() if value is not None or key in required}
        started = time.monotonic()
        try:
            value = function(**arguments) if clock.limit is None else _within(clock, function, arguments)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a user's function may raise anything
            return ToolResult(call, None, f"{type(error).__name__}: {error}", time.monotonic() - started)
        return ToolResult(call, value, None, time.monotonic() - started)


def result_content(result: ToolResult) -> list[dict[str, Any]]:
    """A result as the content of a tool's message: documents in JSON's values.

    A mapping is one document and a list of them as many; of anything else, the JSON text stands under "output".
    """
    if result.error is not None:
        return [{"error": result.error}]
    try:
        text = json.dumps(result.value, default=_plain, ensure_ascii=False)
        value = json.loads(text, parse_constant=str)
    except (TypeError, ValueError, RecursionError):  # such as keys that are no text, or a list within itself
        value = str(result.value)
    is_documents = isinstance(value, list) and value and all(isinstance(item, dict) and item for item in value)
    items = value if is_documents else [value]
    return [item if isinstance(item, dict) and item else {"output": _as_text(item)} for item in items]


def _within(clock: Clock, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            answers.put((context.run(function, **arguments), None))
        except BaseException as error:  # noqa: BLE001  # raised again in the thread that waits
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = answers.get(timeout=min(clock.left or 0.0, threading.TIMEOUT_MAX))
    except queue.Empty:
        raise TimeoutError("it took too long") from None
    if error is not None:
        raise error
    return value


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (AbstractSet, Iterator)) else str(value)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
