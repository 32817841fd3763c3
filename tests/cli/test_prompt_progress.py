"""How much of a long prompt is read is shown on a terminal, and nowhere else."""

from __future__ import annotations

import re
import sys

import pytest

from commandr_gguf.cli.progress import PromptProgress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_long_prompt_is_followed_and_the_line_taken_away(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = PromptProgress()
    progress(0, 4000)
    clock.now = 0.9
    progress(512, 4000)
    assert capsys.readouterr().err == ""
    clock.now = 2.0
    progress(1000, 4000)
    assert capsys.readouterr().err == "\rreading the prompt: 1000 of 4000 tokens, 6 s left\x1b[K"
    progress(4000, 4000)
    assert capsys.readouterr().err == "\r\x1b[K"
    clock.now = 99.0
    progress(1, 1)  # a token of the reply
    assert capsys.readouterr() == ("", "")


def test_the_time_that_is_left_grows_shorter_between_two_parts(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = PromptProgress()
    progress(0, 4000)
    for clock.now, n_done in ((10.0, 1000), (14.0, 1000), (50.0, 1000)):
        progress(n_done, 4000)
    assert re.findall(r"(\d+) s left", capsys.readouterr().err) == ["30", "26", "0"]


def test_a_stopped_prompt_leaves_no_line(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = PromptProgress()
    progress(0, 4000)
    clock.now = 2.0
    progress(0, 4000)
    progress.clear()
    clock.now = 2.5
    progress(512, 4000)  # the next one has a second of its own
    assert capsys.readouterr().err.endswith("\r\x1b[K")


def test_nothing_is_shown_through_a_pipe(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = PromptProgress()
    progress(0, 4000)
    clock.now = 2.0
    progress(1000, 4000)
    progress.clear()
    assert capsys.readouterr().err == ""
