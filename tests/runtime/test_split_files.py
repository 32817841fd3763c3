"""Models split in llama.cpp's way, as the gguf package writes them: they are the model that the whole file is."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import models
import split_files
from commandr_gguf import ArgumentError, CommandRError, FileError, FormatError, GGUFFile, Model, Session
from commandr_gguf.cli import main

UINT16, INT32 = 2, 5
TOKENS = np.arange(40, dtype=np.int32) * 7 % 700 + 20
SESSION: dict[str, Any] = {"n_ctx": 256, "n_threads": 1}


def logits(path: Path, *, use_mmap: bool = True, repack: bool = True) -> npt.NDArray[np.float32]:
    with Model(path, use_mmap=use_mmap, repack=repack) as model, Session(model, **SESSION) as session:
        session.eval(TOKENS, n_outputs=len(TOKENS))
        rows: npt.NDArray[np.float32] = session.logits().copy()
        return rows


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The F32 file of the shape gqa in three parts, not to be changed."""
    return split_files.split(models.gguf("gqa"), tmp_path_factory.mktemp("split"), 12)


@pytest.mark.parametrize("shape", models.SHAPES)
def test_the_logits_are_those_of_the_whole_file(shape: str, tmp_path: Path) -> None:
    whole = models.gguf(shape, "Q4_K_M")
    parts = split_files.split(whole, tmp_path, 5)
    assert len(parts) > 6
    for use_mmap in (True, False):
        for repack in (True, False):
            got = logits(parts[0], use_mmap=use_mmap, repack=repack)
            expected = logits(whole, use_mmap=use_mmap, repack=repack)
            np.testing.assert_array_equal(got, expected, f"use_mmap={use_mmap}, repack={repack}")


def test_files_that_the_converter_split(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convert", str(models.checkpoint("gqa")), "-o", str(tmp_path / "x.gguf")]
    subprocess.run([*command, "--type", "Q4_K_M", "--split-max-size", "500K", "--quiet"], check=True)
    first, *others = sorted(tmp_path.iterdir())
    assert others
    np.testing.assert_array_equal(logits(first), logits(models.gguf("gqa", "Q4_K_M")))


def test_more_parts_than_a_model_has_kinds_of_memory(tmp_path: Path) -> None:
    parts = split_files.split(models.gguf("cohere2"), tmp_path, 1)
    assert len(parts) == 66
    np.testing.assert_array_equal(logits(parts[0], repack=False), logits(models.gguf("cohere2"), repack=False))


def test_a_first_part_with_the_keys_alone(tmp_path: Path) -> None:
    first, *_ = split_files.split(models.gguf("gqa"), tmp_path, 12, small_first=True)
    assert gguf.GGUFReader(first).tensors == []
    np.testing.assert_array_equal(logits(first), logits(models.gguf("gqa")))


def test_mapped_weights_stay_in_their_files(parts: list[Path]) -> None:
    with Model(parts[0], repack=False) as model, Model(models.gguf("gqa"), repack=False) as whole:
        uses = model.memory()
        assert [use.what for use in uses] == ["mapped"] * len(parts)
        assert sum(use.size for use in uses) == sum(use.size for use in whole.memory())


def test_keys_and_tensors_are_those_of_the_whole_file(parts: list[Path]) -> None:
    with GGUFFile(parts[0]) as split, GGUFFile(models.gguf("gqa")) as whole:
        added = {"split.no": 0, "split.count": 3, "split.tensors.count": 34}
        assert dict(split) == dict(whole) | added
        assert split.files == [str(part) for part in parts]
        assert whole.files == [str(models.gguf("gqa"))]
        assert len(split.tensors) == len(whole.tensors) == 34
        for a, b in zip(split.tensors, whole.tensors, strict=True):
            assert (a.name, a.type, a.shape, a.size) == (b.name, b.type, b.shape, b.size)
            data = Path(a.path).read_bytes()[a.offset : a.offset + a.size]
            assert data == Path(b.path).read_bytes()[b.offset : b.offset + b.size]


@pytest.mark.parametrize("count", [0, 1])
def test_a_count_of_one_means_a_whole_file_of_any_name(count: int, parts: list[Path], tmp_path: Path) -> None:
    data = models.gguf("gqa").read_bytes()
    end = data.index(string("general.architecture"))
    record = string("split.count") + struct.pack("<IH", UINT16, count)
    # The filler keeps the tensor data at a multiple of the alignment.
    name = "x" * (-(len(record) + 8 + 4 + 2) % 32)
    record += string(name) + struct.pack("<IH", UINT16, 0)
    (n_keys,) = struct.unpack("<Q", data[16:24])
    path = tmp_path / "any name.gguf"
    path.write_bytes(data[:16] + struct.pack("<Q", n_keys + 2) + data[24:end] + record + data[end:])
    np.testing.assert_array_equal(logits(path), logits(models.gguf("gqa")))


def test_info_counts_all_parts(parts: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(parts[0]), "--ctx", "64"]) == 0
    split = capsys.readouterr().out
    assert main(["info", str(models.gguf("gqa")), "--ctx", "64"]) == 0
    whole = capsys.readouterr().out
    total = sum(part.stat().st_size for part in parts)
    assert f"\n3 files of {total / 2**20:.2f} MiB\n" in split
    assert f"\n1 file of {models.gguf('gqa').stat().st_size / 2**20:.2f} MiB\n" in whole
    assert [line for line in split.splitlines() if line.startswith(("F32", "weights", "total"))] == [
        line for line in whole.splitlines() if line.startswith(("F32", "weights", "total"))
    ]


def test_a_state_belongs_to_all_parts(parts: list[Path], tmp_path: Path) -> None:
    with Model(parts[0]) as model, Session(model, **SESSION) as session:
        session.eval(TOKENS)
        session.save_state(tmp_path / "state")
    with Model(parts[0]) as model, Session(model, **SESSION) as session:
        session.load_state(tmp_path / "state")
        assert session.seq_tokens() == TOKENS.tolist()
    for part in parts:
        shutil.copy(part, tmp_path)
    last = tmp_path / parts[-1].name
    data = np.fromfile(last, np.uint8)
    with GGUFFile(tmp_path / parts[0].name) as file:
        data[min(tensor.offset for tensor in file.tensors if tensor.path == str(last)) :] ^= 1
    data.tofile(last)
    with Model(tmp_path / parts[0].name) as tuned, Session(tuned, **SESSION) as session:  # noqa: SIM117
        with pytest.raises(FormatError, match="another model"):
            session.load_state(tmp_path / "state")


# ---- parts that are no model


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def set_key(path: Path, key: str, new: int) -> None:
    kind, layout = (INT32, "<Ii") if key == "split.tensors.count" else (UINT16, "<IH")
    data = path.read_bytes()
    at = data.index(string(key)) + len(string(key))
    assert struct.unpack_from(layout, data, at)[0] == kind
    path.write_bytes(data[:at] + struct.pack(layout, kind, new) + data[at + struct.calcsize(layout) :])


def rename_key(path: Path, old: str, new: str) -> None:
    data = path.read_bytes()
    assert len(old) == len(new)
    assert data.count(string(old)) == 1
    path.write_bytes(data.replace(string(old), string(new)))


def expect_tensors(parts: list[Path], n: int) -> None:
    for part in parts:
        set_key(part, "split.tensors.count", n)


def swap(a: Path, b: Path) -> None:
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)


def put_twice(parts: list[Path]) -> None:
    shutil.copy(parts[1], parts[2])
    set_key(parts[2], "split.no", 2)


def put_file_in_place(part: Path) -> None:
    shutil.copy(models.gguf("gqa"), part)


def put_folder_in_place(part: Path) -> None:
    part.unlink()
    part.mkdir()


def put_other_model_in_place(part: Path, shape: str, max_tensors: int) -> None:
    shutil.copy(split_files.split(models.gguf(shape), part.parent, max_tensors)[1], part)


Breakage = Callable[[list[Path]], object]

CASES: dict[str, tuple[Breakage, type[CommandRError], int, str]] = {
    # what is done to the three parts, the error, which part it names, what else it says ({n}: the name of part n)
    "the second is missing": (lambda p: p[1].unlink(), FileError, 2, "part 2 of the 3 of"),
    "the last is missing": (lambda p: p[2].unlink(), FileError, 3, "part 3 of the 3 of"),
    "the second is a folder": (lambda p: put_folder_in_place(p[1]), FileError, 2, "not a file"),
    "the second is cut short": (
        lambda p: p[1].write_bytes(p[1].read_bytes()[:-1]),
        FormatError,
        2,
        "inside tensor",
    ),
    "the last is cut in its header": (lambda p: p[2].write_bytes(p[2].read_bytes()[:50]), FormatError, 3, "header"),
    "the second is no GGUF file": (lambda p: p[1].write_text("nothing"), FormatError, 2, "not a GGUF file"),
    "the second is a whole model": (lambda p: put_file_in_place(p[1]), FormatError, 2, "part 1 of 1"),
    "two in each other's place": (lambda p: swap(p[1], p[2]), FormatError, 2, "part 3 of 3"),
    "another in the first one's place": (lambda p: swap(p[0], p[1]), FormatError, 1, "part 2 of 3"),
    "a number beyond the count": (lambda p: set_key(p[1], "split.no", 3), FormatError, 2, "split.no is 3"),
    "another count in the second": (lambda p: set_key(p[1], "split.count", 4), FormatError, 2, "part 2 of 4"),
    "another count in the first": (lambda p: set_key(p[0], "split.count", 4), FormatError, 1, "-00001-of-00004.gguf"),
    "another number of tensors": (
        lambda p: set_key(p[2], "split.tensors.count", 35),
        FormatError,
        3,
        "split.tensors.count is 35 here and 34 there",
    ),
    "tensors that are missing": (
        lambda p: expect_tensors(p, 35),
        FormatError,
        1,
        "split.tensors.count is 35, and the 3 parts hold 34 tensors",
    ),
    "tensors that are there twice": (put_twice, FormatError, 3, "lies in"),
    "a part of a model of other tensors": (
        lambda p: put_other_model_in_place(p[1], "r_plus", 14),
        FormatError,
        2,
        "another model",
    ),
    "a part of a model of other shapes": (
        lambda p: put_other_model_in_place(p[1], "v01", 12),
        FormatError,
        2,
        "blk.1.attn_v.weight is [256, 256",
    ),
    "no number in the first": (
        lambda p: rename_key(p[0], "split.no", "split.nx"),
        FormatError,
        1,
        "split.no is missing",
    ),
    "no number in the second": (
        lambda p: rename_key(p[1], "split.no", "split.nx"),
        FormatError,
        2,
        "split.no is missing",
    ),
    "no number of tensors": (
        lambda p: rename_key(p[0], "split.tensors.count", "split.tensors.cnt_x"),
        FormatError,
        1,
        "split.tensors.count is missing",
    ),
}


def copies(parts: list[Path], folder: Path) -> list[Path]:
    return [Path(shutil.copy(part, folder)) for part in parts]


def assert_refused(path: Path, error: type[CommandRError], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a model is refused, the same from Python and from the command line."""
    with pytest.raises(error) as caught:
        Model(path)
    message = str(caught.value)
    assert "\n" not in message
    for command in (["generate", str(path), "Hello"], ["bench", str(path)]):
        assert main(command) == 2
        captured = capsys.readouterr()
        assert (captured.out, captured.err) == ("", f"commandr: {message}\n")
    return message


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_names_the_part(
    name: str, parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, error, part, mentioned = CASES[name]
    broken = copies(parts, tmp_path)
    change(broken)
    message = assert_refused(broken[0], error, capsys)
    assert message.startswith(f"{broken[part - 1]}: ")
    assert mentioned in message


def test_another_part_than_the_first_names_the_first(parts: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for part in parts[1:]:
        message = assert_refused(part, ArgumentError, capsys)
        assert message.startswith(f"{part}: part ")
        assert message.endswith(f"load the first part, {parts[0]}")


def test_a_first_part_of_another_name_is_refused(
    parts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.gguf", "x.gguf", "gqa-00001-of-00003.gguf.part"):
        path = tmp_path / name
        shutil.copy(parts[0], path)
        assert "ends in -00001-of-00003.gguf" in assert_refused(path, FormatError, capsys)


def test_the_most_parts_that_a_file_can_state(parts: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "x-00001-of-65535.gguf"
    shutil.copy(parts[0], path)
    set_key(path, "split.count", 65535)
    with pytest.raises(FileError, match=r"x-00002-of-65535\.gguf: there is no such file"):
        Model(path)
