"""Tool use to its end: the model calls tools, Python functions answer, and so on until it answers."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.events import Event, Finish
from commandr_gguf.chat.messages import Message, normalize
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.request import Messages, Tools
from commandr_gguf.chat.tools import normalize_tools
from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import ArgumentError, integer, number
from commandr_gguf.session import Progress

MAX_STEPS = 8
Stopped = Literal["answer", "steps", "time", "cancelled"]


@dataclass(frozen=True)
class ToolResult:
    """What a call gave."""

    call: ToolCall
    value: Any
    """What the function returned; None when it failed."""
    error: str | None
    """Why it failed, in the words that the model is told."""
    seconds: float


@dataclass(frozen=True)
class ToolStep:
    """One reply that called tools, and what they gave."""

    reply: Reply
    results: list[ToolResult]


@dataclass
class ToolRun:
    """The trace of a run."""

    reply: Reply
    """The last reply: the answer, unless the run was stopped."""
    steps: list[ToolStep]
    messages: list[Message]
    """The whole conversation with calls, results and answer, to go on with."""
    stopped: Stopped
    """answer: the model called no more tools; steps, time: a limit was reached; cancelled: `CommandR.cancel`."""
    seconds: float = 0.0


@dataclass
class _Clock:
    limit: float | None
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def left(self) -> float | None:
        return None if self.limit is None else max(0.0, self.limit - self.elapsed)

    def is_over(self) -> bool:
        return self.left == 0.0

    def progress(self, other: Progress | None) -> Progress:
        """A progress function that stops an evaluation when the time is over, or when the other one does."""

        def go_on(n_done: int, n_total: int) -> object:
            if self.is_over():
                return False
            return None if other is None else other(n_done, n_total)

        return go_on


def run_tools(
    model: CommandR,
    messages: Messages,
    tools: Tools,
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    max_steps: int = MAX_STEPS,
    max_seconds: float | None = None,
    on_event: Callable[[Event | ToolResult], object] | None = None,
    **options: Any,
) -> ToolRun:
    """Let a model use tools until it answers.

    A function that fails does not end the run: the model is told the error and may try again. One that takes longer
    than the time that is left goes on in a thread that nobody waits for, since Python cannot stop it.

    Args:
        model: answers.
        messages: the conversation so far.
        tools: Python functions, or descriptions whose functions stand in `functions`.
        functions: what to call, by the names of the tools.
        max_steps: how many replies may call tools.
        max_seconds: for the whole run; None has no limit.
        on_event: is given each event of each reply, without `Finish`, and each result.
        options: of `CommandR.chat`: temperature, max_tokens and so on. Command-R's tools are shown in its multi-step
            prompt, unless `multi_step` is given.

    Raises:
        ArgumentError: a tool has no function, or an argument is not of its form.
    """
    events = tool_events(
        model, messages, tools, functions=functions, max_steps=max_steps, max_seconds=max_seconds, **options
    )
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            run: ToolRun = end.value
            return run
        if on_event is not None:
            on_event(event)


def tool_events(
    model: CommandR,
    messages: Messages,
    tools: Tools,
    *,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    max_steps: int = MAX_STEPS,
    max_seconds: float | None = None,
    **options: Any,
) -> Generator[Event | ToolResult, None, ToolRun]:
    """As `run_tools`, which takes the same arguments: its events while they happen, and the run as its value."""
    offered = list(tools) if isinstance(tools, Iterable) else tools
    checked = normalize_tools(offered)
    callables = {tool["name"]: given for tool, given in zip(checked, offered, strict=True) if callable(given)}
    callables |= functions or {}
    for tool in checked:
        if not callable(callables.get(tool["name"])):
            raise ArgumentError(f"the tool {tool['name']!r} has no function to call")
    max_steps = integer("max_steps", max_steps, 1)
    clock = _Clock(None if max_seconds is None else number("max_seconds", max_seconds))
    options = {"multi_step": True if model.takes_steps_when_asked else None, **options}
    options["progress"] = clock.progress(options.get("progress"))
    conversation: list[Mapping[str, Any]] = list(normalize(messages))
    steps: list[ToolStep] = []
    stopped: Stopped | None = None
    while stopped is None:
        with model.chat(conversation, tools=checked, stream=True, **options) as events:
            for event in events:
                if not isinstance(event, Finish):
                    yield event
            reply = events.reply
        if reply.finish_reason == "cancelled":
            stopped = "time" if clock.is_over() else "cancelled"
        elif not reply.tool_calls:
            conversation.append({"role": "assistant", "content": reply.text})
            stopped = "answer"
        elif len(steps) == max_steps:
            stopped = "steps"
        else:
            results = []
            for call in reply.tool_calls:
                results.append(_call(call, callables, clock))
                yield results[-1]
            steps.append(ToolStep(reply, results))
            conversation += _messages(reply, results)
            stopped = "time" if clock.is_over() else None
    return ToolRun(reply, steps, normalize(conversation), stopped, clock.elapsed)


def _call(call: ToolCall, functions: Mapping[str, Callable[..., Any]], clock: _Clock) -> ToolResult:
    started = time.monotonic()
    function = functions.get(call.name)
    if function is None:
        return ToolResult(call, None, f"there is no tool {call.name!r}; the tools are {', '.join(functions)}", 0.0)
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            # A parameter that is not required may be written as null, which stands for leaving it out.
            answers.put((function(**{k: v for k, v in call.parameters.items() if v is not None}), None))
        except BaseException as error:  # noqa: BLE001  # whatever a user's function raises is told to the model
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = answers.get(timeout=clock.left)
    except queue.Empty:
        value, error = None, TimeoutError("it took too long")
    seconds = time.monotonic() - started
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
    return ToolResult(call, value, None if error is None else f"{type(error).__name__}: {error}", seconds)


def _messages(reply: Reply, results: list[ToolResult]) -> list[dict[str, Any]]:
    """What the conversation gets from one step."""
    asked: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": list(reply.tool_calls)}
    if reply.plan:
        asked["tool_plan"] = reply.plan
    return [asked, *({"role": "tool", "content": _content(result)} for result in results)]


def _content(result: ToolResult) -> Any:
    """A result as a message's content: a mapping or a list of them, in JSON's values."""
    if result.error is not None:
        return [{"error": result.error}]
    value = json.loads(json.dumps(result.value, default=str, ensure_ascii=False))
    is_documents = isinstance(value, list) and value and all(isinstance(item, dict) and item for item in value)
    items = value if is_documents else [value]
    return [item if isinstance(item, dict) and item else {"output": _as_text(item)} for item in items]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
