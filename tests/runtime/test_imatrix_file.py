"""Files of importance matrices: ours, llama.cpp's of today and of old, damaged ones, and several added up."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import tiny_models
from commandr_gguf.errors import ArgumentError, FileError, FormatError
from commandr_gguf.imatrix import ColumnSums, ImportanceMatrix


def example(scale: float = 1.0, n_tokens: int = 128) -> ImportanceMatrix:
    sums = {"blk.0.attn_q.weight": np.arange(8.0), "blk.0.ffn_down.weight": np.linspace(0.5, 3, 12)}
    entries = {name: ColumnSums(scale * values, n_tokens) for name, values in sums.items()}
    return ImportanceMatrix(entries, ("a.txt", "ü.txt"), 64)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    example().write(path)
    found = ImportanceMatrix.read(path)
    assert (found.datasets, found.chunk_size, found.n_chunks) == (("a.txt", "ü.txt"), 64, 2)
    assert found.entries.keys() == example().entries.keys()
    for name, entry in example().entries.items():
        assert found.entries[name].n_tokens == 128
        assert np.array_equal(found.entries[name].sums, entry.sums.astype(np.float32))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", ["gqa", "r_plus"])
def test_a_file_of_llama_cpp_read_and_written_is_the_same_byte_by_byte(shape: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    path.write_bytes(tiny_models.llama_cpp_bytes(shape))
    ImportanceMatrix.read(path).write(tmp_path / "ours.gguf")
    assert (tmp_path / "ours.gguf").read_bytes() == path.read_bytes()


def test_merging_adds_sums_and_tokens() -> None:
    merged = ImportanceMatrix.merge([example(), example(3.0, 64)])
    entry = merged.entries["blk.0.ffn_down.weight"]
    assert entry.n_tokens == 192
    assert np.allclose(entry.sums, 4 * np.linspace(0.5, 3, 12))
    assert merged.datasets == ("a.txt", "ü.txt", "a.txt", "ü.txt")
    assert merged.n_chunks == 3


def test_matrices_of_different_models_are_not_merged() -> None:
    other = ImportanceMatrix({"blk.0.attn_q.weight": ColumnSums(np.ones(9), 64)})
    with pytest.raises(ArgumentError, match=r"different models .* blk\.0\.attn_q\.weight has 8 and 9 columns"):
        ImportanceMatrix.merge([example(), other])


def test_sums_beyond_a_float_keep_every_token() -> None:
    """A float32 sum stands still when what is added is below its last bit; that of many parts does not."""
    small, large = (ImportanceMatrix({"w": ColumnSums(np.array([value]), 1)}) for value in (1.0, 2.0**25))
    merged = ImportanceMatrix.merge([large, *[small] * 100])
    assert merged.entries["w"].sums[0] == 2.0**25 + 100


def old_file(**changes: bytes) -> bytes:
    """One matrix of four columns over three chunks: means times three."""
    parts = {
        "n_entries": struct.pack("<i", 1),
        "name": struct.pack("<i", 19) + b"blk.0.attn_q.weight",
        "numbers": struct.pack("<ii", 3, 4),
        "values": np.array([3, 6, 9, 0], "<f4").tobytes(),
        "text": struct.pack("<ii", 3, 5) + b"a.txt",
    }
    return b"".join((parts | changes).values())


@pytest.mark.parametrize("text", [None, b""])
def test_files_from_before_gguf_are_read(tmp_path: Path, text: bytes | None) -> None:
    path = tmp_path / "old.dat"
    path.write_bytes(old_file() if text is None else old_file(text=text))
    found = ImportanceMatrix.read(path)
    entry = found.entries["blk.0.attn_q.weight"]
    assert np.array_equal(entry.sums / entry.n_tokens, [1, 2, 3, 0])
    assert found.n_chunks == 3
    assert found.datasets == (("a.txt",) if text is None else ())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x00",
        old_file(n_entries=struct.pack("<i", 0)),
        old_file(n_entries=struct.pack("<i", 2), text=b""),
        old_file(name=struct.pack("<i", -1)),
        old_file(name=struct.pack("<i", 2**30)),
        old_file(numbers=struct.pack("<ii", 3, -4)),
        old_file(numbers=struct.pack("<ii", 3, 1000)),
        b"GGUF",
        b"GGUF" + b"\xff" * 40,
        b"a text of some length, which is no importance matrix at all",
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "damaged.dat"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"damaged\.dat: "):
        ImportanceMatrix.read(path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    example().write(tmp_path / "whole.gguf")
    data = (tmp_path / "whole.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    end = data.rindex(np.array([128], "<f4").tobytes()) + 4  # the rest is padding
    for n in range(end):
        path.write_bytes(data[:n])
        with pytest.raises(FormatError):
            ImportanceMatrix.read(path)


def array_of(n: int, kind: int) -> bytes:
    """A GGUF file with one key, an array of n values, that ends after a few."""
    name = b"imatrix.datasets"
    return b"".join(
        (b"GGUF", struct.pack("<IQQQ", 3, 0, 1, len(name)), name, struct.pack("<IIQ", 9, kind, n), bytes(100))
    )


def entries_in_a_circle(n: int) -> bytes:
    """A file from before GGUF whose first entry is as long as to end where it begins."""
    return struct.pack("<ii4siif", n, 4, bytes(4), 1, -4, 1.0)


@pytest.mark.parametrize(
    "data",
    [array_of(2**40, kind=0), array_of(2**40, kind=8), array_of(2**62, kind=10), entries_in_a_circle(2**31 - 1)],
    ids=["bytes", "strings", "integers", "entries"],
)
def test_counts_beyond_the_files_end_are_refused_at_once(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "hostile"
    path.write_bytes(data)
    program = "import sys; from commandr_gguf.imatrix import ImportanceMatrix as M; M.read(sys.argv[1])"
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=20)
    assert "FormatError" in done.stderr
    assert "hostile: " in done.stderr


def write(path: Path, tensors: dict[str, list[list[float]]], *, kind: str = "imatrix") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(kind)
    for name, values in tensors.items():
        writer.add_tensor(name, np.array(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w.in_sum2": [[1, 2]]}, r"w\.counts is missing"),
        ({"w.in_sum2": [[1, 2], [3, 4]], "w.counts": [[1], [1]]}, "w has 2 counts; .* no experts"),
        ({"w.in_sum2": [[1, np.nan]], "w.counts": [[1]]}, "w has sums or a count that are negative"),
        ({"w.in_sum2": [[1, -1]], "w.counts": [[1]]}, "w has sums or a count that are negative"),
        ({"w.in_sum2": [[1, 1]], "w.counts": [[np.inf]]}, "w has sums or a count that are negative"),
        ({"w": [[1, 1]]}, "the GGUF file is no importance matrix"),
    ],
)
def test_wrong_tensors_are_named(tmp_path: Path, tensors: dict[str, list[list[float]]], message: str) -> None:
    with pytest.raises(FormatError, match=rf"x\.gguf: .*{message}"):
        ImportanceMatrix.read(write(tmp_path / "x.gguf", tensors))


def test_a_model_is_no_importance_matrix(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no importance matrix"):
        ImportanceMatrix.read(tiny_models.gguf("gqa"))
    sums = {"w.in_sum2": [[1.0]], "w.counts": [[1.0]]}
    with pytest.raises(FormatError, match="no importance matrix"):
        ImportanceMatrix.read(write(tmp_path / "x.gguf", sums, kind="model"))


def test_what_cannot_be_opened_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"absent\.gguf: cannot be read: No such file"):
        ImportanceMatrix.read(tmp_path / "absent.gguf")
    with pytest.raises(FileError, match=r"y\.gguf: cannot be written: No such file"):
        example().write(tmp_path / "absent" / "y.gguf")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gguf"
    example().write(path)
    before = path.read_bytes()

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(FileError, match="No space left"):
        example(2.0).write(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
