"""One example: what is sent to the model, the reply that is right, and what a score looks at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Task = Literal["chat", "tools", "accurate", "fast"]
TASKS: tuple[Task, ...] = ("chat", "tools", "accurate", "fast")


@dataclass(frozen=True)
class Example:
    """A prompt and the reply to it.

    `messages`, `tools`, `documents` and `citation_mode` are what `CommandR.chat` takes.
    """

    task: Task
    messages: list[dict[str, str]]
    reply: str
    """The model's whole reply, in the format of the task, without the end token."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, str]] = field(default_factory=list)
    call: dict[str, Any] | None = None
    """tools: the one right call, `{"tool_name": ..., "parameters": ...}`."""
    cited: tuple[int, ...] = ()
    """accurate and fast: the documents that hold the answer; empty when none does."""
    facts: tuple[str, ...] = ()
    """accurate and fast: what an answer must contain."""
    entities: tuple[str, ...] = ()
    """The names, numbers and tool names drawn for this example, each of its split alone."""

    @property
    def citation_mode(self) -> Literal["accurate", "fast"]:
        """The citation mode of a grounded task."""
        return "fast" if self.task == "fast" else "accurate"
