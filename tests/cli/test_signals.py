"""SIGTERM and SIGHUP end a command as Ctrl-C does: what was done is saved, what is unfinished is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import kl_models
import tiny_models
from commandr_gguf.cli import main
from commandr_gguf.cli.signals import Stopped, stopped_by_signals
from commandr_gguf.imatrix import ImportanceMatrix

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
# Whatever is done is saved at once, not only every minute.
SAVE_ALWAYS = (
    "import sys; from commandr_gguf.cli import imatrix, main; imatrix._SAVE_SECONDS = 0; sys.exit(main(sys.argv[1:]))"
)


def stop(arguments: list[str], number: int, ready: Callable[[], bool]) -> tuple[int, str]:
    """Exit code and messages of a command that gets a signal when it is ready for it."""
    command = [sys.executable, "-c", SAVE_ALWAYS, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not ready():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate()
    return process.returncode, said


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(kl_models.text() * 50, encoding="utf-8")
    return path


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_an_importance_matrix_is_saved(number: int, code: int, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    arguments = ["imatrix", str(tiny_models.gguf("gqa")), str(text), "-o", str(out), "--ctx", "64", "--threads", "1"]
    returned, said = stop(arguments, number, out.exists)
    n_chunks = ImportanceMatrix.read(out).n_chunks
    assert (returned, n_chunks > 0) == (code, True)
    assert said.startswith(f"commandr: stopped; {out} holds {n_chunks} of ")
    assert f"--from-chunk {n_chunks} and" in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.txt", "x.gguf"]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_an_unfinished_base_is_removed(number: int, code: int, text: Path, tmp_path: Path) -> None:
    arguments = ["perplexity", str(kl_models.base_model()), str(text), "--save-kl-base", str(tmp_path / "base")]
    returned, said = stop(arguments, number, lambda: bool(list(tmp_path.glob("base.*.part"))))
    assert (returned, said) == (code, "")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_that_were_ignored_stay_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_handlers_are_put_back() -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(Stopped), stopped_by_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert main(["--version"]) == 0
    assert [signal.getsignal(number) for number in numbers] == before
