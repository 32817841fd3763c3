"""Where the measuring commands write: never over what they read, and over other files only when told to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

import models
import tiny_models
from commandr_gguf.cli import main
from commandr_gguf.cli.outputs import check_output
from commandr_gguf.errors import ArgumentError, CommandRError, FileError
from split_files import split

Command = Callable[[object, object, object], list[str]]


def imatrix(model: object, text: object, output: object) -> list[str]:
    return ["imatrix", str(model), str(text), "-o", str(output), "--ctx", "64", "--chunks", "1"]


def perplexity(model: object, text: object, output: object) -> list[str]:
    return ["perplexity", str(model), str(text), "--save-kl-base", str(output), "--ctx", "64", "--chunks", "1"]


def sensitivity(model: object, text: object, output: object) -> list[str]:
    return ["sensitivity", str(model), str(text), "-o", str(output), "--ctx", "64", "--chunks", "1"]


COMMANDS = [imatrix, perplexity, sensitivity]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(tiny_models.TEXT, encoding="utf-8")
    return path


@pytest.fixture
def _no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("commandr_gguf.model.Model.__init__", fail)


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


# ---- the check


def check(output: Path, *inputs: Path | None, force: bool = False) -> None:
    check_output("--output", output, inputs, force=force)


def test_a_new_file_in_a_folder_is_accepted(tmp_path: Path) -> None:
    check(tmp_path / "new", None, tmp_path / "absent")
    (tmp_path / "link").symlink_to(tmp_path / "new")
    check(tmp_path / "link")


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    with pytest.raises(ArgumentError, match=r"^--output .*old exists: give --force to replace it$"):
        check(path)
    check(path, tmp_path, force=True)


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    for name in ("fifo", "link"):
        with pytest.raises(ArgumentError, match=f"{name}: it is not a regular file and is not replaced"):
            check(tmp_path / name, force=True)
    with pytest.raises(ArgumentError, match="it is a folder"):
        check(tmp_path, force=True)


def test_an_input_is_never_replaced_under_whatever_name(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"input")
    (tmp_path / "symbolic").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    for name in ("input", "symbolic", "hard"):
        with pytest.raises(ArgumentError, match=f"{name} would replace what is read"):
            check(tmp_path / name, tmp_path / "absent", path, force=True)


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("absent/x", ArgumentError, "its folder does not exist"),
        ("file/x", ArgumentError, "its folder does not exist"),
        ("n" * 300, FileError, "cannot be written: File name too long"),
        ("loop", FileError, "cannot be written: Too many levels of symbolic links"),
    ],
)
def test_a_place_where_no_file_can_be_is_refused(
    name: str, error: type[CommandRError], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(error, match=sentence):
        check(tmp_path / name, force=True)


def test_a_folder_that_is_closed_to_the_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ArgumentError, match="its folder cannot be written to"):
        check(tmp_path / "new")


# ---- the commands


@pytest.mark.usefixtures("_no_loading")
@pytest.mark.parametrize("command", COMMANDS)
def test_no_part_of_a_split_model_and_no_text_is_replaced(
    command: Command, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = split(models.gguf("gqa", "BF16"), tmp_path, 12)
    assert len(parts) == 3
    for output in (*parts, text):
        content = output.read_bytes()
        force = [] if command is sensitivity else ["--force"]
        assert f"{output} would replace what is read" in refuse([*command(parts[0], text, output), *force], capsys)
        assert output.read_bytes() == content


@pytest.mark.usefixtures("_no_loading")
@pytest.mark.parametrize("command", COMMANDS)
def test_bad_outputs_are_known_before_a_model_is_loaded(
    command: Command, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "old").write_bytes(b"old")
    old = "old: this is no file of sensitivities" if command is sensitivity else "old exists: give --force"
    for name, sentence in (("fifo", "not a regular file"), (".", "it is a folder"), ("no/x", "folder does not exist")):
        assert sentence in refuse(command(models.gguf("gqa"), text, tmp_path / name), capsys)
    assert old in refuse(command(models.gguf("gqa"), text, tmp_path / "old"), capsys)
    assert (tmp_path / "fifo").is_fifo()
    assert (tmp_path / "old").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "old", "text.txt"]


@pytest.mark.parametrize("command", [imatrix, perplexity])
def test_force_replaces_a_file(command: Command, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "old"
    output.write_bytes(b"old")
    assert main([*command(models.gguf("gqa"), text, output), "--force"]) == 0
    assert output.read_bytes()[:8] in (b"GGUF\3\0\0\0", b"_logits_")


@pytest.mark.usefixtures("_no_loading")
def test_a_matrix_that_is_added_to_is_not_replaced(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "before.gguf"
    tiny_models.llama_cpp_imatrix("gqa").write(before)
    arguments = [*imatrix(tiny_models.gguf("gqa"), text, before), "--in-file", str(before), "--force"]
    assert "before.gguf would replace what is read" in refuse(arguments, capsys)
