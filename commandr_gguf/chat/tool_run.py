"""Tool use to its end: the model calls tools, Python functions answer, and so on until it answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from commandr_gguf.chat.events import Event, Finish
from commandr_gguf.chat.messages import Message, normalize
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.request import Messages, Tools
from commandr_gguf.chat.toolbox import Clock, Toolbox, ToolResult, result_content
from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.session import Progress

__all__ = ["MAX_STEPS", "ToolResult", "ToolRun", "ToolStep", "ToolStream", "run_tools"]

MAX_STEPS = 8
Stopped = Literal["answer", "length", "steps", "time", "cancelled"]


@dataclass(frozen=True)
class ToolStep:
    """One reply that called tools, and what they gave."""

    reply: Reply
    results: list[ToolResult]


@dataclass
class ToolRun:
    """The trace of a run."""

    messages: list[Message]
    """The whole conversation with calls, results and answer, to go on with; an answer that was cut before its first
    text is not there."""
    reply: Reply = field(default_factory=Reply)
    """The last reply: the answer, unless the run was stopped."""
    steps: list[ToolStep] = field(default_factory=list)
    stopped: Stopped = "cancelled"
    """answer: the model called no more tools; length: a reply ran into max_tokens or the end of the context; steps,
    time: a limit of the run was reached; cancelled: `CommandR.cancel`, a progress function, or leaving the loop. Calls
    of the last reply that are in no step were not made."""
    seconds: float = 0.0


class ToolStream(Iterator[Event | ToolResult]):
    """A run while it happens: the events of each reply, the result of each call, and at last one `Finish`.

    Its arguments are those of `run_tools`. `run` grows with every event. Leaving the loop early, close() and exceptions
    leave the model usable.
    """

    def __init__(
        self,
        model: CommandR,
        messages: Messages,
        tools: Tools,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        max_steps: int = MAX_STEPS,
        max_seconds: float | None = None,
        **options: Any,
    ) -> None:
        if "stream" in options:
            raise ArgumentError("run_tools takes no stream; iterate over ToolStream, which gives the events of a run")
        self._model = model
        self._toolbox = Toolbox(tools, functions)
        self._max_steps = integer("max_steps", max_steps, 1)
        self._clock = Clock(max_seconds)
        self._options = {"multi_step": True if model.takes_steps_when_asked else None, **options}
        self._options["progress"] = _limited(self._clock, options.get("progress"))
        self.run = ToolRun(normalize(messages))
        """The run so far."""
        self._events: Generator[Event | ToolResult, None, None] = self._run()

    def __next__(self) -> Event | ToolResult:
        return next(self._events)

    def close(self) -> None:
        """Compute no more and call nothing more."""
        self._events.close()

    def __enter__(self) -> ToolStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> Generator[Event | ToolResult, None, None]:
        self._clock.started += self._clock.elapsed  # it begins with the first event
        run = self.run
        stopped: Stopped | None = None
        try:
            while stopped is None:
                yield from self._ask()
                if run.reply.finish_reason == "cancelled":
                    stopped = "time" if self._clock.is_over else "cancelled"
                elif run.reply.finish_reason == "length":
                    stopped = "length"
                elif not run.reply.tool_calls:
                    stopped = "answer"
                elif len(run.steps) == self._max_steps:
                    stopped = "steps"
                else:
                    yield from self._call(run.reply)
                    stopped = "time" if self._clock.is_over else None
            if stopped == "answer" or (stopped == "length" and run.reply.text and not run.reply.tool_calls):
                run.messages.append(Message(role="assistant", content=run.reply.text))
            run.stopped = stopped
        finally:
            run.seconds = self._clock.elapsed
        yield Finish(run.reply)

    def _ask(self) -> Generator[Event, None, None]:
        stream = self._model.chat(self.run.messages, tools=self._toolbox.tools, stream=True, **self._options)
        try:
            for event in stream:
                if not isinstance(event, Finish):
                    yield event
        finally:
            stream.close()
            self.run.reply = stream.reply

    def _call(self, reply: Reply) -> Generator[ToolResult, None, None]:
        results = []
        for call in reply.tool_calls:
            results.append(self._toolbox.call(call, self._clock))
            yield results[-1]
        asked = {
            "role": "assistant",
            "content": reply.text,
            "tool_calls": list(reply.tool_calls),
            "tool_plan": reply.plan,
        }
        messages = normalize([*self.run.messages, asked])
        ids = [call["id"] for call in messages[-1]["tool_calls"]]
        contents = [
            {"role": "tool", "tool_call_id": name, "content": result_content(result)}
            for name, result in zip(ids, results, strict=True)
        ]
        self.run.messages = normalize([*messages, *contents])
        self.run.steps.append(ToolStep(reply, results))


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

    A function that fails does not end the run: the model is told the error and may try again. Functions are given JSON
    values, so that a date comes as text. They run in the calling thread; with `max_seconds` in others, where one that
    takes longer than the time that is left goes on without anybody who waits, since Python cannot stop it.

    Args:
        model: answers.
        messages: the conversation so far.
        tools: Python functions, or descriptions whose functions stand in `functions`.
        functions: what to call, by the names of the tools.
        max_steps: how many replies may call tools; with `multi_step=False` the second one answers.
        max_seconds: for the whole run; None has no limit.
        on_event: is given each event of each reply and each result, and `Finish` at the end of the run only.
        options: of `CommandR.chat`: temperature, max_tokens and so on. Command-R's tools are shown in its multi-step
            prompt; with `multi_step=False` in that of one step, after which the answer rests on the results as on
            documents.

    Raises:
        ArgumentError: a tool has no function, or an argument is not of its form; `stream` is none of them.
        ContextFullError: the conversation with what tools gave does not fit in the context.
    """
    with ToolStream(
        model, messages, tools, functions=functions, max_steps=max_steps, max_seconds=max_seconds, **options
    ) as stream:
        for event in stream:
            if on_event is not None:
                on_event(event)
    return stream.run


def _limited(clock: Clock, progress: Progress | None) -> Progress:
    """A progress function that stops an evaluation when the time is over, or when `progress` does."""

    def go_on(n_done: int, n_total: int) -> object:
        if clock.is_over:
            return False
        return None if progress is None else progress(n_done, n_total)

    return go_on
