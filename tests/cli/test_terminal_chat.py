"""`commandr chat` as a person at a terminal sees it, through a pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import models
from commandr_gguf.cli import repl
from commandr_gguf.errors import BackendError

PROMPT = "> "


class Terminal:
    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self._master, slave = pty.openpty()
        environment = os.environ | {"XDG_STATE_HOME": str(folder), "TERM": "dumb", "INPUTRC": "/dev/null"}
        command = [sys.executable, "-m", "commandr_gguf", "chat", str(models.gguf("gqa")), *arguments]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=environment, start_new_session=True
        )
        os.close(slave)

    def read_until(self, text: str, seconds: float = 30) -> str:
        """All output up to and including a text, with the echo of what was typed."""
        seen = b""
        end = time.monotonic() + seconds
        while text.encode() not in seen:
            assert time.monotonic() < end, f"{text!r} did not come: {seen!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    seen += os.read(self._master, 65536)
                except OSError:
                    raise AssertionError(f"the chat ended: {seen!r}") from None
        return seen.decode("utf-8", "replace").replace("\r\n", "\n")

    def read_some(self, count: int, seconds: float = 30) -> None:
        """At least `count` bytes of output."""
        end = time.monotonic() + seconds
        while count > 0:
            assert time.monotonic() < end, f"{count} bytes more did not come"
            if select.select([self._master], [], [], 0.1)[0]:
                count -= len(os.read(self._master, 65536))

    def say(self, line: str, expected: str = "\n" + PROMPT) -> str:
        os.write(self._master, line.encode() + b"\n")
        return self.read_until(expected)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def end(self) -> int:
        return self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path, "--ctx", "2048", "-n", "12", "--seed", "1", "--type-k", "f32", "--type-v", "f32")
    try:
        opened.read_until(PROMPT)
        yield opened
    finally:
        opened.close()


def test_a_chat_with_every_command(terminal: Terminal) -> None:
    help_text = terminal.say("/help")
    for command in ("/reset", "/system", "/save", "/load", "/stats", "/quit"):
        assert command in help_text
    assert "no reply yet" in terminal.say("/stats")
    assert "there is no command /dance" in terminal.say("/dance")
    assert "needs the name of a file" in terminal.say("/save")
    terminal.say("/system Be brief.")
    terminal.say("Hello")
    assert re.search(r"prompt \d+ tokens, \d+ of them cached, .* tokens/s; reply \d+ tokens", terminal.say("/stats"))
    assert "saved 3 messages" in terminal.say("/save chat.json")
    saved = json.loads((terminal.folder / "chat.json").read_text(encoding="utf-8"))
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
    assert saved[0]["content"] == "Be brief."
    terminal.say("/reset")
    assert "saved 1 messages" in terminal.say("/save chat2.json")
    assert "loaded 3 messages" in terminal.say("/load chat.json")
    assert "cannot be read" in terminal.say("/load absent.json")
    terminal.type("/quit\n")
    assert terminal.end() == 0
    history = (terminal.folder / "commandr" / "history").read_text(encoding="utf-8")
    assert "Hello" in history


def test_ctrl_d_ends_a_chat(terminal: Terminal) -> None:
    terminal.type("\x04")
    assert terminal.end() == 0


def test_an_error_does_not_end_a_chat(terminal: Terminal) -> None:
    said = terminal.say("a b c d " * 600)
    assert "2048" in said.replace(",", "")
    assert "Traceback" not in said
    terminal.say("Hello")
    assert "reply" in terminal.say("/stats")


def test_what_computes_may_be_lost_and_the_conversation_not(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def fail(_line: str) -> None:
        raise BackendError("a worker was lost")

    monkeypatch.setattr(repl, "_say", said.append)
    chat = repl.Repl.__new__(repl.Repl)
    chat._interactive = True
    monkeypatch.setattr(chat, "_answer", fail)
    chat._handle("Hello")
    assert said == ["a worker was lost", "/save FILE keeps this conversation; /load FILE goes on with it in a new chat"]


def test_ctrl_c_stops_the_reply_and_not_the_chat(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "--ctx", "32768", "--seed", "1")
    try:
        terminal.read_until(PROMPT)
        terminal.type("Hello\n")
        terminal.read_until("Hello\r\n")
        terminal.read_some(40)  # the reply is under way, however slow the machine is
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("\n" + PROMPT)
        assert "reply" in terminal.say("/stats")
        time.sleep(0.5)  # readline shows its prompt a moment before a signal can wake it
        terminal.process.send_signal(signal.SIGINT)
        terminal.read_until("Ctrl-D ends the chat\r\n" + PROMPT)  # before the prompt, Ctrl-D would be lost
        terminal.type("\x04")
        assert terminal.end() == 0
    finally:
        terminal.close()


@pytest.mark.parametrize("replying", [False, True])
def test_sigterm_ends_a_chat(replying: bool, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "--ctx", "32768", "--seed", "1")
    try:
        terminal.read_until(PROMPT)
        if replying:
            terminal.type("Hello\n")
            terminal.read_until("Hello\r\n")
            terminal.read_some(40)
        else:
            time.sleep(0.5)  # readline shows its prompt a moment before a signal can wake it
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
    finally:
        terminal.close()


def test_documents_at_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "bridge.txt").write_text("The Velmora Bridge was opened in 1987.\n")
    terminal = Terminal(tmp_path, "--docs", "bridge.txt", "--ctx", "2048", "-n", "30", "--seed", "1")
    try:
        assert "1 part of 1 file\n" in terminal.read_until(PROMPT)
        terminal.say("When was it opened?")
        assert "reply 30 tokens" in terminal.say("/stats")
        terminal.say("/save chat.json")
        terminal.type("/quit\n")
        assert terminal.end() == 0
    finally:
        terminal.close()
