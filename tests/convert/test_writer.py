from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

import shapes
from convert.blocks import convert_block
from convert.errors import ArgumentError, CheckpointError, OutputError
from convert.hf_model import read_hf_model
from convert.layout import ALIGNMENT
from convert.pipeline import Written, write_plan
from convert.plan import Plan, make_plan
from convert.recipe import file_type
from convert.rows import FileRows
from convert.shard import SourceTensor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shapes.write_checkpoint(tmp_path / "checkpoint", "gqa", n_layers=1)


def plan_of(folder: Path, recipe: str = "Q8_0") -> Plan:
    return make_plan(read_hf_model(folder), file_type(recipe))


def convert(folder: Path, output: Path, recipe: str = "Q8_0", **options: Any) -> Written:
    return write_plan(plan_of(folder, recipe), output, **options)


@pytest.mark.parametrize("shape", shapes.SHAPES)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_weights_survive(tmp_path: Path, shape: str, dtype: str) -> None:
    folder = shapes.write_checkpoint(tmp_path / "c", shape, n_layers=2, dtype=dtype, n_shards=2)
    convert(folder, tmp_path / "x.gguf", "F32")
    reader = GGUFReader(tmp_path / "x.gguf")
    written = {tensor.name: tensor for tensor in reader.tensors}
    plan = plan_of(folder, "F32")
    assert list(written) == [tensor.name for tensor in plan.tensors]
    with FileRows() as rows:
        for tensor in plan.tensors:
            expected = rows.floats(tensor.source, 0, tensor.source.n_rows).reshape(tensor.source.shape)
            assert (written[tensor.name].data == expected).all()
            assert written[tensor.name].data_offset % ALIGNMENT == 0
    for name, value in plan.keys.items():
        assert reader.fields[name].contents() == pytest.approx(value.value)
    assert len(reader.fields) == len(plan.keys) + 3  # the reader adds the header's own three


def test_same_input_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "a.gguf")
    convert(folder, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_progress_counts_every_byte(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    convert(folder, tmp_path / "x.gguf", progress=lambda tensor, n: seen.append((tensor.name, n)))
    plan = plan_of(folder)
    assert sum(n for _, n in seen) == plan.n_bytes
    assert {name for name, _ in seen} == {tensor.name for tensor in plan.tensors}


def test_existing_file_is_kept_unless_forced(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.gguf"
    output.write_text("precious")
    with pytest.raises(ArgumentError, match="exists: give --force"):
        convert(folder, output)
    assert output.read_text() == "precious"
    convert(folder, output, overwrite=True)
    assert output.read_bytes()[:4] == b"GGUF"


def test_checkpoint_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.gguf"
    link.symlink_to(folder / "model.safetensors")
    for output in (folder / "model.safetensors", folder / "config.json", link):
        with pytest.raises(ArgumentError, match="is a file of the checkpoint itself"):
            convert(folder, output, overwrite=True)


@pytest.mark.parametrize(("output", "message"), [("checkpoint", "is a folder"), ("none/x.gguf", "make it first")])
def test_places_that_cannot_be_written(folder: Path, tmp_path: Path, output: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        convert(folder, tmp_path / output)


class Failing:
    """Does what a function does for some calls, then raises."""

    def __init__(self, function: Callable[..., Any], error: BaseException, n_calls: int) -> None:
        self.function, self.error, self.left = function, error, n_calls

    def __call__(self, *arguments: Any) -> Any:
        if self.left == 0:
            raise self.error
        self.left -= 1
        return self.function(*arguments)


@pytest.mark.parametrize("n_calls", [0, 1, 5])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("failing", "error", "expected", "message"),
    [
        ("convert.blocks.convert_block", KeyboardInterrupt(), KeyboardInterrupt, None),
        ("convert.blocks.convert_block", CheckpointError("damaged"), CheckpointError, "damaged"),
        ("convert.blocks.convert_block", MemoryError(), MemoryError, None),
        (
            "convert.writer.os.pwrite",
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            OutputError,
            "No space left.*nothing was written there",
        ),
    ],
)
def test_nothing_is_left_behind(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    error: BaseException,
    expected: type[BaseException],
    message: str | None,
    exists: bool,
    n_calls: int,
) -> None:
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    if exists:
        output.write_text("precious")
    function = os.pwrite if "pwrite" in failing else convert_block
    monkeypatch.setattr(failing, Failing(function, error, n_calls))
    with pytest.raises(expected, match=message):
        convert(folder, output, overwrite=True)
    assert [path.name for path in output.parent.iterdir()] == (["x.gguf"] if exists else [])
    assert not exists or output.read_text() == "precious"


@pytest.mark.parametrize("step", ["file", "folder"])
def test_failure_at_the_end(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A disk that only notices on fsync, and a folder that cannot be synced, which does no harm."""
    output = tmp_path / "x.gguf"

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if step == "folder":
        fsync = os.fsync
        monkeypatch.setattr(
            "convert.writer.os.fsync",
            lambda handle: fail() if stat.S_ISDIR(os.fstat(handle).st_mode) else fsync(handle),
        )
        convert(folder, output)
        assert output.exists()
        return
    monkeypatch.setattr("convert.writer.os.fsync", fail)
    with pytest.raises(OutputError, match="Input/output error"):
        convert(folder, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_too_little_space_is_known_before_the_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("convert.writer.shutil.disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match="it takes 0.0 GiB and 0.0 GiB are free there"):
        convert(folder, tmp_path / "x.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_permissions_are_those_of_any_new_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    convert(folder, tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("n_shards", [1, 3])
def test_shards_are_read_from_front_to_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_shards: int) -> None:
    folder = shapes.write_checkpoint(tmp_path / "c", "gqa", n_layers=3, n_shards=n_shards)
    read: list[tuple[str, int]] = []
    rows_of = FileRows.read

    def record(self: FileRows, tensor: SourceTensor, first: int, n: int) -> Any:
        read.append((tensor.path.name, tensor.offset + first * tensor.row_bytes))
        return rows_of(self, tensor, first, n)

    monkeypatch.setattr(FileRows, "read", record)
    monkeypatch.setattr("convert.blocks._MAX_BLOCK", 2**16)
    convert(folder, tmp_path / "x.gguf", n_threads=1)
    assert len(read) > 60
    # Two threads take blocks in this order, and may change places by one.
    out_of_order = [abs(i - read.index(place)) for i, place in enumerate(sorted(read))]
    assert max(out_of_order) <= 2


def test_files_of_a_split_hold_what_fits_and_all_of_it(folder: Path, tmp_path: Path) -> None:
    written = convert(folder, tmp_path / "x.gguf", split_max_bytes=400_000).paths
    assert [path.name for path in written] == [f"x-{i + 1:05d}-of-{len(written):05d}.gguf" for i in range(len(written))]
    assert len(written) > 2
    convert(folder, tmp_path / "whole.gguf")
    whole = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "whole.gguf").tensors}
    found: list[str] = []
    for i, path in enumerate(written):
        reader = GGUFReader(path)
        assert path.stat().st_size <= 400_000 or len(reader.tensors) == 1
        keys = {name: reader.fields[f"split.{name}"].contents() for name in ("no", "count", "tensors.count")}
        assert keys == {"no": i, "count": len(written), "tensors.count": len(whole)}
        assert ("general.architecture" in reader.fields) == (i == 0)
        for tensor in reader.tensors:
            assert (tensor.data == whole[tensor.name].data).all()
            found.append(tensor.name)
    assert found == list(whole)


def test_what_fits_in_one_file_is_not_split(folder: Path, tmp_path: Path) -> None:
    assert convert(folder, tmp_path / "x.gguf", split_max_bytes=2**30).paths == [tmp_path / "x.gguf"]
    convert(folder, tmp_path / "y.gguf")
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "y.gguf").read_bytes()


def test_split_files_are_never_called_parts_of_parts(folder: Path, tmp_path: Path) -> None:
    written = convert(folder, tmp_path / "x-00001-of-00009.gguf", split_max_bytes=400_000).paths
    assert written[0].name == f"x-00001-of-{len(written):05d}.gguf"
