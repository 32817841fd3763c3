"""The Python side of quantization; the numbers themselves are tested in tests/native."""

from __future__ import annotations

import numpy as np
import pytest

from commandr_gguf import ArgumentError, dequantize_rows, quantize_rows
from commandr_gguf.quantize import block_size, needs_imatrix, row_size, type_find, type_name


def test_names_and_sizes() -> None:
    assert type_name(type_find("q4_K")) == "Q4_K"
    assert (block_size("Q8_0"), row_size("Q8_0", 64), row_size("F16", 5)) == (32, 68, 10)
    assert not needs_imatrix("Q4_K")
    for call in (
        lambda: type_find("Q9"),
        lambda: type_name(999),
        lambda: row_size("Q8_0", 33),
        lambda: row_size("F32", 0),
    ):
        with pytest.raises(ArgumentError):
            call()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "IQ4_XS"])
def test_there_and_back(name: str) -> None:
    rows = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
    blocks = quantize_rows(name, rows, n_threads=2)
    assert blocks.shape == (6, row_size(name, 512))
    back = dequantize_rows(name, blocks, 512)
    assert np.abs(back - rows).max() < (0.6 if "4" in name else 0.1)
    assert np.array_equal(quantize_rows(name, rows[:, ::-1][:, ::-1]), blocks)


def test_an_imatrix_changes_the_blocks() -> None:
    rows = np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32)
    weights = np.linspace(0.01, 10, 256, dtype=np.float32)
    assert not np.array_equal(quantize_rows("Q4_K", rows, imatrix=weights), quantize_rows("Q4_K", rows))


def test_wrong_shapes_are_refused() -> None:
    rows = np.zeros((2, 256), np.float32)
    with pytest.raises(ArgumentError, match="two dimensions"):
        quantize_rows("Q8_0", rows[0])
    with pytest.raises(ArgumentError, match="not a whole number of Q4_K blocks"):
        quantize_rows("Q4_K", rows[:, :100])
    with pytest.raises(ArgumentError, match=r"imatrix must have the shape \(256,\)"):
        quantize_rows("Q4_K", rows, imatrix=np.ones(255, np.float32))
    with pytest.raises(ArgumentError, match="rows must have the shape"):
        dequantize_rows("Q8_0", np.zeros((2, 3), np.uint8), 256)
