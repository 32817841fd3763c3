"""The terminal side of a chat: reads lines, streams replies, carries out /commands."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from commandr_gguf.chat.conversation import Conversation
from commandr_gguf.chat.reply import Reply
from commandr_gguf.cli.replies import ReplyPrinter, print_text
from commandr_gguf.errors import BackendError, CommandRError

# Python can be built without it.
_readline: Any = importlib.import_module("readline") if importlib.util.find_spec("readline") else None

_HELP = """\
/help          this list
/reset         forget the conversation
/system TEXT   set the system message and forget the conversation; without TEXT remove it
/save FILE     write the conversation to a JSON file
/load FILE     go on with a saved conversation
/stats         tokens and speed of the last reply
/quit          end the chat, as does Ctrl-D
A line that ends in \\ goes on in the next. Ctrl-C stops a reply."""

_PROMPT, _MORE = "> ", ". "


class Repl:
    """A chat in the terminal; errors are reported and do not end it. Through a pipe they do."""

    def __init__(
        self, conversation: Conversation, *, n_ctx: int, stats: bool = False, show: ReplyPrinter = print_text
    ) -> None:
        """`show` prints each reply."""
        self._show = show
        self._conversation = conversation
        self._n_ctx = n_ctx
        self._stats = stats
        self._interactive = sys.stdin.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper) and not self._interactive:
            sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # a file of another encoding is no reason to end
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: _say(_HELP),
            "/reset": lambda _: self._conversation.reset(),
            "/system": self._set_system,
            "/save": self._save,
            "/load": self._load,
            "/stats": lambda _: self._print_stats(),
        }

    def run(self) -> None:
        """Until the input ends or /quit."""
        history = _open_history() if self._interactive else None
        if self._interactive:
            _say(f"{self._n_ctx} tokens of context; /help lists the commands.")
        try:
            for line in self._lines():
                if line == "/quit":
                    break
                self._handle(line)
        finally:
            if history is not None:
                _save_history(history)

    def _handle(self, line: str) -> None:
        try:
            name, _, argument = line.partition(" ")
            if line.startswith("/") and self._interactive:
                command = self._commands.get(name)
                if command is None:
                    _say(f"there is no command {name}; /help lists them")
                else:
                    command(argument.strip())
            elif line:
                self._answer(line)
        except CommandRError as error:
            if not self._interactive:
                raise
            _say(str(error))
            if isinstance(error, BackendError):
                _say("/save FILE keeps this conversation; /load FILE goes on with it in a new chat")

    def _answer(self, text: str) -> None:
        events = self._conversation.ask(text)
        try:
            self._show(events)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
        finally:
            events.close()
        reply = self._conversation.last
        if reply is not None and reply.finish_reason == "length" and not reply.tool_calls and self._is_full(reply):
            _say("the reply was cut at the end of the context, see --ctx and --context-shift")
        if self._stats:
            self._print_stats()

    def _is_full(self, reply: Reply) -> bool:
        return reply.usage.prompt_tokens + reply.usage.completion_tokens >= self._n_ctx

    def _lines(self) -> Iterator[str]:
        parts: list[str] = []
        while True:
            try:
                line = self._read(_MORE if parts else _PROMPT)
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                _say("\n/quit or Ctrl-D ends the chat")
                parts = []
                continue
            parts.append(line.removesuffix("\\"))
            if not line.endswith("\\"):
                yield "\n".join(parts).strip()
                parts = []
        if parts:
            yield "\n".join(parts).strip()
        elif self._interactive:
            _say("")

    def _read(self, prompt: str) -> str:
        if self._interactive:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def _set_system(self, text: str) -> None:
        self._conversation.system = text or None
        self._conversation.reset()

    def _save(self, path: str) -> None:
        if path:
            self._conversation.save(path)
            _say(f"saved {len(self._conversation.messages)} messages to {path}")
        else:
            _say("/save needs the name of a file")

    def _load(self, path: str) -> None:
        if path:
            self._conversation.load(path)
            _say(f"loaded {len(self._conversation.messages)} messages from {path}")
        else:
            _say("/load needs the name of a file")

    def _print_stats(self) -> None:
        reply = self._conversation.last
        if reply is None:
            _say("there is no reply yet")
            return
        usage, timings = reply.usage, reply.timings
        _say(
            f"prompt {usage.prompt_tokens} tokens, {usage.cached_tokens} of them cached, "
            f"{timings.prefill_tokens_per_second:.1f} tokens/s; "
            f"reply {usage.completion_tokens} tokens, {timings.decode_tokens_per_second:.1f} tokens/s; "
            f"{usage.prompt_tokens + usage.completion_tokens} of {self._n_ctx} tokens in use"
        )


def _say(text: str) -> None:
    """For the person at the terminal; standard output carries the replies only."""
    print(text, file=sys.stderr)


def _open_history() -> Path | None:
    """Line editing with the lines of earlier chats, where Python has readline."""
    if _readline is None:
        return None
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "commandr" / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _readline.read_history_file(path)
    except OSError:
        return None
    _readline.set_history_length(1000)
    return path


def _save_history(path: Path) -> None:
    try:
        _readline.write_history_file(path)
        path.chmod(0o600)  # it holds what the user said
    except OSError:
        return
