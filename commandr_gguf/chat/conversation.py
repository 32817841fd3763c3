"""A conversation of several turns with one model."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from commandr_gguf.chat.events import Event
from commandr_gguf.chat.messages import Message, normalize
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.request import Tools
from commandr_gguf.chat.tool_run import ToolResult, ToolStream
from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import FileError, FormatError


class Conversation:
    """Keeps the messages of a chat and asks the model for the next one.

    A reply that is cut short, by leaving the loop or by an interrupt, is kept as far as it came: the user has seen it.
    """

    def __init__(
        self, model: CommandR, system: str | None = None, *, tools: Tools | None = None, **options: Any
    ) -> None:
        """`tools` are Python functions that the model may call, as `run_tools` does.

        `options` go to `CommandR.chat`: documents, max_tokens, temperature, seed and so on.
        """
        self._model = model
        self._tools = None if tools is None else list(tools)
        self.options = options
        self.system = system
        """The system message, or None."""
        self.turns: list[Message] = []
        """User and assistant messages, alternating; calls of tools and their results between them."""
        self.last: Reply | None = None
        """The last reply with its usage and timings."""

    @property
    def messages(self) -> list[Message]:
        """All messages, the system's first."""
        head = [Message(role="system", content=self.system)] if self.system else []
        return head + self.turns

    def ask(self, text: str) -> Generator[Event | ToolResult, None, None]:
        """Add a user message and stream the reply, with the results of tools that it called; the last is `Finish`.

        When it fails or is cut before its first text, the message is taken back: prompts want users and assistants to
        alternate, and an empty turn would teach the model to be silent. What tools gave stays with the message, when a
        limit was reached before the answer.
        """
        before = list(self.turns)
        self.turns = [*before, Message(role="user", content=text)]
        self.last = None
        ended = False
        try:
            yield from self._ask() if self._tools is None else self._use_tools(self._tools)
            ended = True
        finally:
            self._keep(before, ended=ended)

    def _keep(self, before: list[Message], *, ended: bool) -> None:
        """Decide what stays of a turn that is over or was left."""
        last, role = self.last, self.turns[-1]["role"]
        if role != "assistant":
            if last is not None and not last.tool_calls and (last.text or last.finish_reason == "stop"):
                self.turns.append(Message(role="assistant", content=last.text))
            elif not (ended and role == "tool"):
                self.turns = before

    def _ask(self) -> Generator[Event, None, None]:
        stream = self._model.chat(self.messages, stream=True, **self.options)
        try:
            yield from stream
        finally:
            stream.close()
            self.last = stream.reply

    def _use_tools(self, tools: list[Any]) -> Generator[Event | ToolResult, None, None]:
        stream = ToolStream(self._model, self.messages, tools, **self.options)
        n_head = len(self.messages) - len(self.turns)
        try:
            yield from stream
        finally:
            stream.close()
            self.last = stream.run.reply
            self.turns = stream.run.messages[n_head:]

    def reset(self) -> None:
        """Forget all messages but the system's."""
        self.turns = []
        self.last = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the messages to a JSON file. Raises FileError when it cannot be written.

        A symbolic link stays, and the file it points to is replaced; what is no regular file is refused.
        """
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            raise FileError(f"{path}: the conversation cannot be saved: this is not a regular file")
        partial = target.with_name(target.name + ".partial")
        try:
            partial.write_text(json.dumps(self.messages, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            partial.replace(target)
        except OSError as error:
            raise FileError(f"{path}: the conversation cannot be saved: {error.strerror}") from error

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on with the messages that `save` wrote. On failure the conversation stays as it was."""
        try:
            messages = normalize(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise FileError(f"{path}: the conversation cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise FormatError(f"{path}: this is no saved conversation: {error}") from error
        self.system = messages[0]["content"] if messages[0]["role"] == "system" else None
        self.turns = messages[1:] if messages[0]["role"] == "system" else messages
        self.last = None
