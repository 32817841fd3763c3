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
    with pytest.raises(ArgumentError, match="was begun with another checkpoint or other options"):
        convert(folder, stopped, "Q4_K", resume=True)
    other = shapes.write_checkpoint(tmp_path / "other" / "c", "gqa", n_layers=2, seed=1)
    with pytest.raises(ArgumentError, match="was begun with another checkpoint or other options"):
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
        synced.append(len(noted(tmp_path / "x.gguf")))  # what the journal says before the sync

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


@pytest.mark.parametrize("split", [False, True])
def test_killed_process_is_resumed(tmp_path: Path, split: bool) -> None:
    folder = shapes.write_checkpoint(
        tmp_path / "c", "v01", n_layers=3, hidden_size=512, intermediate_size=4096, num_attention_heads=8
    )
    output, options = tmp_path / "x.gguf", ["--split-max-size", "3M"] if split else []
    command = [sys.executable, "-m", "convert", str(folder), "-o", str(output), "--type", "IQ4_XS", "--threads", "1"]
    with subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not any(len(path.read_text().splitlines()) > 2 for path in tmp_path.glob("*.part.done")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    refused = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.count("--resume goes on with it")) == (2, 1)
    subprocess.run([*command, *options, "--resume"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    resumed = {path.name: path.read_bytes() for path in tmp_path.glob("*.gguf")}
    assert len(resumed) == (1 if not split else len(resumed))
    assert not split or len(resumed) > 2
    subprocess.run([*command, *options, "--force"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert resumed == {path.name: path.read_bytes() for path in tmp_path.glob("*.gguf")}
    assert not list(tmp_path.glob("*.part*"))


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
