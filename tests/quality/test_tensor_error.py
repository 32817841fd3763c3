"""Errors of tensors beside plain arithmetic, and files that do not hold the same tensors."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

import models
from commandr_gguf.errors import UnsupportedError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.quality import tensor_rows
from commandr_gguf.quality.tensor_error import TensorError, TensorPair, common_elements, compare_tensors
from commandr_gguf.quality.tensor_rows import TensorRows
from commandr_gguf.quantize import dequantize_rows
from split_files import split

Array = npt.NDArray[np.generic]


def write(path: Path, tensors: dict[str, Array]) -> Path:
    writer = gguf.GGUFWriter(path, "command-r")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def compare(a: Path, b: Path) -> dict[str, TensorPair]:
    with GGUFFile(a) as file_a, GGUFFile(b) as file_b:
        return {pair.name: pair for pair in compare_tensors(TensorRows(file_a), TensorRows(file_b), n_threads=2)}


def values(n_rows: int, n_per_row: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n_rows, n_per_row)).astype(np.float32)


def test_errors_are_those_of_plain_arithmetic() -> None:
    a, b = values(3, 50), values(3, 50, seed=1)
    found = TensorError.of(a, b)
    pairs = [(float(x), float(y)) for x, y in zip(a.flat, b.flat, strict=True)]
    squares = math.fsum((x - y) ** 2 for x, y in pairs), math.fsum(x * x for x, _ in pairs)
    assert found.relative == pytest.approx(squares[0] / squares[1], rel=1e-12)
    assert found.relative_rms == pytest.approx(math.sqrt(squares[0] / squares[1]), rel=1e-12)
    assert found.largest == max(abs(x - y) for x, y in pairs)
    norm = math.sqrt(squares[1] * math.fsum(y * y for _, y in pairs))
    assert found.cosine == pytest.approx(math.fsum(x * y for x, y in pairs) / norm, rel=1e-12)


def test_errors_of_parts_add_up() -> None:
    a, b = values(6, 50), values(6, 50, seed=1)
    whole, parts = TensorError.of(a, b), TensorError.of(a[:1], b[:1]) + TensorError.of(a[1:], b[1:])
    assert parts.relative == pytest.approx(whole.relative, rel=1e-12)
    assert parts.cosine == pytest.approx(whole.cosine, rel=1e-12)
    assert parts.largest == whole.largest


def test_zeros_and_values_that_are_no_numbers_have_errors_that_say_so() -> None:
    zeros, ones = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    assert TensorError.of(zeros, zeros).relative_rms == 0
    assert TensorError.of(zeros, ones).relative_rms == math.inf
    assert math.isnan(TensorError.of(zeros, ones).cosine)
    broken = TensorError.of(ones, ones * np.float32(np.nan)) + TensorError.of(ones, ones)
    assert math.isnan(broken.relative_rms)
    assert math.isnan(broken.largest)


@pytest.mark.parametrize("block", [1 << 18, 700])
def test_a_quantized_file_is_compared_tensor_by_tensor(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_rows, "_BLOCK", block)
    found = compare(models.gguf("gqa"), models.gguf("gqa", "Q4_K_M"))
    readers = [gguf.GGUFReader(models.gguf("gqa", name)) for name in ("F32", "Q4_K_M")]
    assert list(found) == [tensor.name for tensor in readers[0].tensors]
    for a, b in zip(*(reader.tensors for reader in readers), strict=True):
        if a.name == b.name and len(a.shape) == 2:
            exact = a.data
            approximate = (
                dequantize_rows(b.tensor_type.name, b.data, int(b.shape[0])) if b.data.dtype == np.uint8 else b.data
            )
            error = found[a.name].error
            assert error is not None
            expected = np.linalg.norm((exact - approximate).astype(float)) / np.linalg.norm(exact.astype(float))
            assert error.relative_rms == pytest.approx(expected, rel=1e-6)
            assert error.largest == np.abs(exact - approximate).max()


def test_a_split_model_is_compared_as_a_whole(tmp_path: Path) -> None:
    whole = models.gguf("gqa")
    found = compare(whole, split(whole, tmp_path, 9)[0])
    assert len(found) == 34
    assert all(pair.error is not None and pair.error.relative_rms == 0 for pair in found.values())


def test_what_only_one_file_has_and_other_shapes_are_told(tmp_path: Path) -> None:
    a = write(tmp_path / "a.gguf", {"both": values(4, 32), "only_a": values(1, 32), "shape": values(4, 32)})
    b = write(tmp_path / "b.gguf", {"only_b": values(1, 32), "shape": values(2, 64), "both": values(4, 32)})
    found = compare(a, b)
    assert list(found) == ["both", "only_a", "shape", "only_b"]
    assert found["only_a"].b is None
    assert found["only_b"].a is None
    assert [pair.error is None for pair in found.values()] == [False, True, True, True]
    both = found["both"].error
    assert both is not None
    assert both.relative_rms == 0
    with GGUFFile(a) as file_a, GGUFFile(b) as file_b:
        assert common_elements(TensorRows(file_a), TensorRows(file_b)) == 4 * 32


def test_progress_counts_every_element_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_rows, "_BLOCK", 1000)
    seen: list[int] = []
    with GGUFFile(models.gguf("gqa")) as file:
        rows = TensorRows(file)
        compare_tensors(rows, rows, n_threads=2, progress=seen.append)
        assert sum(seen) == common_elements(rows, rows) == sum(math.prod(tensor.shape) for tensor in file.tensors)
    assert len(seen) > len(rows.tensors)


def test_tensors_that_are_no_floats_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", {"numbers": np.arange(32, dtype=np.int32)})
    with pytest.raises(UnsupportedError, match=r"a\.gguf: numbers holds no weights: I32"):
        compare(path, path)
