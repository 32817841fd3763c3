"""Full disks, closed pipes, files that must not be replaced, and warnings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

import models
import shapes
from commandr_gguf import CommandR, Conversation, FileError
from commandr_gguf.cli import main

FULL = Path("/dev/full")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "commandr_gguf", *arguments]


@pytest.fixture(scope="module")
def path() -> str:
    return str(models.gguf("gqa"))


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["info", "PATH"], ["devices", "--json"], ["generate", "PATH", "a", "-n", "2"]])
def test_a_full_disk_is_one_sentence_and_exit_code_1(path: str, arguments: list[str]) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            command(*(path if argument == "PATH" else argument for argument in arguments)),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


@pytest.mark.parametrize("arguments", [["info", "PATH"], ["devices"], ["generate", "PATH", "a", "-n", "2"], ["--help"]])
def test_a_closed_pipe_ends_quietly(path: str, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command(*(path if argument == "PATH" else argument for argument in arguments)),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_during_the_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupt:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "commandr_gguf.cli.app":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "commandr_gguf.cli.app", raising=False)
    monkeypatch.delattr("commandr_gguf.cli.app", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupt(), *sys.meta_path])
    assert main(["--version"]) == 130


def test_warnings_before_a_generation(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", path, "a", "-n", "1", "--ctx", "131328", "--gpu-layers", "0"]) == 0
    assert "--ctx 131328 is beyond the 131072 tokens" in capsys.readouterr().err


def test_gpu_layers_without_a_gpu(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from commandr_gguf.cli import loading

    monkeypatch.setattr(loading, "devices", list)
    loading.warn_without_gpu(0)
    assert capsys.readouterr().err == ""
    loading.warn_without_gpu(-1)
    assert capsys.readouterr().err == "commandr: --gpu-layers has no effect: no GPU is present\n"


def test_cache_types_are_listed(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--type-k", "--type-v"):
        assert main(["generate", path, "a", option, "q9"]) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert all(text in error for text in (option, "'q9'", "f32, f16, bf16, q8_0, q4_0"))


def test_info_states_a_total(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", path, "--ctx", "1024"]) == 0
    text = capsys.readouterr().out
    assert "total " in text
    assert "an estimate" in text


def test_a_conversation_replaces_only_regular_files(tmp_path: Path) -> None:
    conversation = Conversation(cast("CommandR", None), "Be brief.")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match="fifo: .* not a regular file"):
        conversation.save(tmp_path / "fifo")
    assert (tmp_path / "fifo").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    conversation.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert "Be brief." in (tmp_path / "real").read_text(encoding="utf-8")


def test_convert_replaces_only_regular_files(tmp_path: Path) -> None:
    checkpoint = str(shapes.write_checkpoint(tmp_path / "checkpoint", "gqa", n_layers=1))

    def convert(output: str) -> subprocess.CompletedProcess[str]:
        arguments = command("convert", checkpoint, "--force", "--type", "Q8_0", "-o", output)
        return subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=tmp_path)

    os.mkfifo(tmp_path / "fifo")
    for output, message in ((str(tmp_path / "fifo"), "not a regular file"), ("", "is empty")):
        done = convert(output)
        assert done.returncode == 2
        assert message in done.stderr
    assert (tmp_path / "fifo").is_fifo()
    (tmp_path / "link.gguf").symlink_to(tmp_path / "real.gguf")
    assert convert(str(tmp_path / "link.gguf")).returncode == 0
    assert (tmp_path / "link.gguf").is_symlink()
    assert (tmp_path / "real.gguf").stat().st_size > 0


def test_help_shows_no_type_of_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["info", "--help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert "--help" in text
        assert "<bool>" not in text
