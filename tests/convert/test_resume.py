"""Conversions that were stopped and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import shapes
from convert.blocks import Block, convert_block
from convert.errors import ArgumentError
from convert.hf_model import read_hf_model
from convert.pipeline import write_plan
from convert.plan import make_plan
from convert.recipe import file_type
from convert.rows import FileRows

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.write_checkpoint(tmp_path_factory.mktemp("resume") / "c", "gqa", n_layers=2)


def convert(folder: Path, output: Path, recipe: str = "Q8_0", **options: Any) -> None:
    write_plan(make_plan(read_hf_model(folder), file_type(recipe)), output, n_threads=1, **options)


class Stopping:
    """Converts blocks, counts them, and stops in the middle."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.names: list[str] = []
        self.stop_at = stop_at

    def __call__(self, rows: FileRows, block: Block) -> Any:
        if len(self.names) == self.stop_at:
            raise KeyboardInterrupt
        self.names.append(block.tensor.name)
        return convert_block(rows, block)


@pytest.fixture
def stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output whose conversion was interrupted after some tensors, all of them noted."""
    monkeypatch.setattr("convert.blocks._SYNC_SECONDS", 0.0)
    output = tmp_path / "x.gguf"
    with monkeypatch.context() as patch:
        patch.setattr("convert.blocks.convert_block", Stopping(12))
        with pytest.raises(KeyboardInterrupt):
            convert(folder, output, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.gguf.part", "x.gguf.part.done"]
    return output


def noted(output: Path) -> list[str]:
    return output.with_name("x.gguf.part.done").read_text().splitlines()[1:]


def test_stopped_conversion_goes_on_at_the_first_unfinished_tensor_and_ends_with_the_same_bytes(
    folder: Path, tmp_path: Path, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = noted(stopped)
    assert 1 <= len(finished) <= 12
    rest = Stopping()
    monkeypatch.setattr("convert.blocks.convert_block", rest)
    seen: dict[str, int] = {}
    convert(folder, stopped, resume=True, progress=lambda tensor, n: seen.update({tensor.name: n}))
    assert set(finished).isdisjoint(rest.names)
    assert set(seen) == {*finished, *rest.names}  # progress counts what was there
    convert(folder, tmp_path / "whole.gguf")
    assert stopped.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.gguf", "x.gguf"]


def test_what_is_left_over_is_not_thrown_away_unasked(folder: Path, stopped: Path) -> None:
    with pytest.raises(ArgumentError, match=r"x.gguf.part is what an unfinished .* --resume .* --force starts anew"):
        convert(folder, stopped)
    assert noted(stopped)
    convert(folder, stopped, overwrite=True)
    assert stopped.exists()


def test_other_options_or_another_checkpoint_are_not_mixed_in(folder: Path, tmp_path: Path, stopped: Path) -> None:
    with pytest.raises(ArgumentError, match="is of another checkpoint or other options"):
        convert(folder, stopped, "Q4_K", resume=True)
    other = shapes.write_checkpoint(tmp_path / "other" / "c", "gqa", n_layers=2, seed=1)
    with pytest.raises(ArgumentError, match="is of another checkpoint or other options"):
        convert(other, stopped, resume=True)
    assert noted(stopped)


def test_a_name_that_was_cut_off_in_the_journal_is_not_believed(folder: Path, tmp_path: Path, stopped: Path) -> None:
    journal = stopped.with_name("x.gguf.part.done")
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], "blk.1.ffn_up.weight"]))  # no line end: the write was cut
    convert(folder, stopped, resume=True)
    convert(folder, tmp_path / "whole.gguf")
    assert stopped.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_tensors_are_noted_only_after_their_bytes_are_synced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convert.blocks._SYNC_SECONDS", 0.0)
    synced: list[int] = []

    def fsync(handle: int) -> None:
        if os.fstat(handle).st_ino == (tmp_path / "x.gguf.part").stat().st_ino:
            synced.append(len(noted(tmp_path / "x.gguf")))  # what the journal says before the data is synced

    monkeypatch.setattr("convert.journal.os.fsync", fsync)
    with monkeypatch.context() as patch:
        patch.setattr("convert.blocks.convert_block", Stopping(12))
        with pytest.raises(KeyboardInterrupt):
            convert(folder, tmp_path / "x.gguf", resume=True)
    assert synced[0] == 0
    assert len(noted(tmp_path / "x.gguf")) > synced[-1]


def test_two_conversions_do_not_write_one_file(folder: Path, tmp_path: Path) -> None:
    import fcntl

    output = tmp_path / "x.gguf"
    with (tmp_path / "x.gguf.part").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for option in ("overwrite", "resume"):
            with pytest.raises(ArgumentError, match="x.gguf.part is being written by another process"):
                convert(folder, output, overwrite=option == "overwrite", resume=option == "resume")
    assert (tmp_path / "x.gguf.part").exists()


KILLED = """
import os, signal, sys, time
import convert.blocks, convert.rename
from convert.cli import main
from pathlib import Path

convert.blocks._SYNC_SECONDS = 0.0
what, left = sys.argv[1], int(sys.argv[2])
plain = {"block": convert.blocks.convert_block, "rename": Path.replace, "unlink": Path.unlink}[what]

counted = {"block": (), "rename": (".part", ".gguf"), "unlink": (".part.done",)}[what]


def is_noted():  # does the journal name a tensor? another thread notes them
    text = "".join(path.read_text() for path in Path(sys.argv[5]).parent.glob("*.part.done"))
    return "\\t" in text if "--allow-nonfinite" in sys.argv else len(text.splitlines()) > 1


def kill_later(*arguments):
    global left
    if left == 0 and (what == "block" or str(arguments[0]).endswith(counted)):
        left -= 1  # the other threads go on
        deadline = time.monotonic() + 5
        while what == "block" and not is_noted() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "block" or str(arguments[0]).endswith(counted):
        left -= 1
    return plain(*arguments)


if what == "block":
    convert.blocks.convert_block = kill_later
elif what == "rename":
    Path.replace = kill_later
else:
    Path.unlink = lambda self, missing_ok=False: kill_later(self, missing_ok)
raise SystemExit(main(sys.argv[3:]))
"""


def converted(folder: Path, output: Path, *options: str, kill: tuple[str, int] | None = None) -> tuple[int, str]:
    """Exit status and standard error; ``kill``: before which block or rename the process is killed."""
    start = ["-m", "convert"] if kill is None else ["-c", KILLED, kill[0], str(kill[1])]
    command = [sys.executable, *start, str(folder), "-o", str(output), "--type", "Q8_0", "--threads", "1", "-q"]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


SPLIT = ["--split-max-size", "400K"]


@pytest.fixture(scope="module", params=["one file", "split"])
def whole(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed conversion writes."""
    target = tmp_path_factory.mktemp("whole")
    assert converted(folder, target / "x.gguf", *(SPLIT if request.param == "split" else [])) == (0, "")
    return outputs(target)


def split_of(whole: dict[str, bytes]) -> list[str]:
    return SPLIT if len(whole) > 1 else []


@pytest.mark.parametrize("n_blocks", [1, 9, 17])
def test_killed_process_is_resumed_to_the_same_bytes(
    folder: Path, tmp_path: Path, whole: dict[str, bytes], n_blocks: int
) -> None:
    options = split_of(whole)
    assert converted(folder, tmp_path / "x.gguf", *options, kill=("block", n_blocks))[0] == -signal.SIGKILL
    status, said = converted(folder, tmp_path / "x.gguf", *options)
    assert (status, said.count("--resume goes on with it")) == (2, 1)
    assert converted(folder, tmp_path / "x.gguf", *options, "--resume") == (0, "")
    assert outputs(tmp_path) == whole


@pytest.mark.parametrize("again", [["--resume"], ["--resume", "--force"], ["--force"]])
@pytest.mark.parametrize("n_renames", [1, 2, 3])
def test_process_killed_while_files_get_their_names_is_resumed(
    folder: Path, tmp_path: Path, whole: dict[str, bytes], again: list[str], n_renames: int
) -> None:
    options = split_of(whole)
    kill = ("rename", min(n_renames, len(whole)))
    status, _ = converted(folder, tmp_path / "x.gguf", *options, kill=kill)
    assert status in {0, -signal.SIGKILL}
    if status:
        assert converted(folder, tmp_path / "x.gguf", *options, *again) == (0, "")
    assert outputs(tmp_path) == whole


@pytest.mark.parametrize("again", [["--resume"], ["--resume", "--force"]])
def test_process_killed_when_all_files_have_their_names_keeps_them(
    folder: Path, tmp_path: Path, whole: dict[str, bytes], again: list[str]
) -> None:
    """Only the journal is left: its file is removed once before the start, and last of all."""
    options = split_of(whole)
    assert converted(folder, tmp_path / "x.gguf", *options, kill=("unlink", 1))[0] == -signal.SIGKILL
    assert {*outputs(tmp_path)} - {*whole} == {f"{min(whole)}.part.done"}
    assert converted(folder, tmp_path / "x.gguf", *options, *again) == (0, "")
    assert outputs(tmp_path) == whole


@pytest.mark.parametrize("again", [["--resume", "--force"], ["--force"]])
@pytest.mark.parametrize("n_renames", [1, 2, 4, 5])
def test_process_killed_while_it_replaces_files_leaves_nothing_of_them_in_the_end(
    folder: Path, tmp_path: Path, whole: dict[str, bytes], again: list[str], n_renames: int
) -> None:
    options = split_of(whole)
    for name in whole:
        (tmp_path / name).write_text("old")
    status, _ = converted(folder, tmp_path / "x.gguf", *options, "--force", kill=("rename", n_renames))
    if status:
        assert status == -signal.SIGKILL
        assert converted(folder, tmp_path / "x.gguf", *options, *again) == (0, "")
    assert outputs(tmp_path) == whole


@pytest.mark.parametrize("damage", ["removed", "emptied", "cut", "another header"])
def test_a_journal_is_not_believed_without_its_file(
    folder: Path, tmp_path: Path, whole: dict[str, bytes], damage: str
) -> None:
    options = split_of(whole)
    converted(folder, tmp_path / "x.gguf", *options, kill=("block", 16))
    assert len(next(tmp_path.glob("*.done")).read_text().splitlines()) > 1
    partial = min(tmp_path.glob("*.part"))
    if damage == "removed":
        partial.unlink()
    else:
        data = partial.read_bytes()
        partial.write_bytes({"emptied": b"", "cut": data[:-1], "another header": b"X" + data[1:]}[damage])
    assert converted(folder, tmp_path / "x.gguf", *options, "--resume") == (0, "")
    assert outputs(tmp_path) == whole


def test_a_journal_that_was_emptied_says_that_nothing_is_done(
    folder: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    options = split_of(whole)
    converted(folder, tmp_path / "x.gguf", *options, kill=("block", 16))
    next(tmp_path.glob("*.done")).write_text("")
    assert converted(folder, tmp_path / "x.gguf", *options, "--resume") == (0, "")
    assert outputs(tmp_path) == whole


def test_conversion_into_the_folder_of_the_checkpoint_is_resumed_and_replaced(tmp_path: Path) -> None:
    folder = shapes.write_checkpoint(tmp_path / "c", "gqa", n_layers=2)
    output = folder / "x.gguf"
    assert converted(folder, output, kill=("block", 9))[0] == -signal.SIGKILL
    assert converted(folder, output, "--resume") == (0, "")
    assert converted(folder, output, "--force") == (0, "")


def test_what_is_no_number_is_told_after_a_resume(tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    values = shapes.normal(1, name, (768, 256))
    values[3, 4] = float("nan")
    folder = shapes.write_checkpoint(tmp_path / "c", "gqa", n_layers=3, replace={name: values})
    converted(folder, tmp_path / "x.gguf", "--allow-nonfinite", kill=("block", 24))
    assert "token_embd.weight\t1" in (tmp_path / "x.gguf.part.done").read_text()
    command = [sys.executable, "-m", "convert", str(folder), "-o", str(tmp_path / "x.gguf"), "--type", "Q8_0"]
    done = subprocess.run(
        [*command, "--resume", "--allow-nonfinite"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "token_embd.weight holds 1 values that are NaN or infinite" in done.stderr


def test_stopped_with_resume_keeps_what_is_done(folder: Path, tmp_path: Path) -> None:
    slow = shapes.write_checkpoint(
        tmp_path / "c", "v01", n_layers=1, hidden_size=1024, intermediate_size=6144, num_attention_heads=8
    )
    command = [sys.executable, "-m", "convert", str(slow), "-o", str(tmp_path / "x.gguf"), "--type", "IQ4_XS"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE, text=True, env=environment) as process:
        while not (tmp_path / "x.gguf.part.done").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 143
    assert said.endswith("stopped before the file was whole: what is done is kept for --resume\n")
    assert (tmp_path / "x.gguf.part").exists()
