"""Errors measured on a sample of rows."""

from __future__ import annotations

import numpy as np
import pytest

from convert.quantize import convert_rows, to_floats
from convert.rounding import SAMPLE_ELEMENTS, relative_error, sample_rows


@pytest.mark.parametrize(
    ("n_rows", "n_per_row"),
    [(1, 256), (7, 256), (1024, 256), (1025, 256), (12288, 33792), (256000, 12288), (40, 65536)],
)
def test_sampled_rows_are_spread_over_the_tensor_and_bounded(n_rows: int, n_per_row: int) -> None:
    places = list(sample_rows(n_rows, n_per_row))
    rows = [row for first, n in places for row in range(first, first + n)]
    assert rows == sorted(set(rows))
    assert rows[0] == 0
    assert rows[-1] == n_rows - 1
    assert len(rows) == min(n_rows, max(8, SAMPLE_ELEMENTS // n_per_row))
    assert max(np.diff(rows), default=0) <= max(1, n_rows / min(16, len(rows)) * 1.2)


def test_the_error_is_that_of_the_whole_tensor_within_percents() -> None:
    values = np.random.default_rng(0).standard_normal((20000, 256), np.float32)
    sample = np.concatenate([values[first : first + n] for first, n in sample_rows(20000, 256)])
    blocks, _ = convert_rows("F32", values.view(np.uint8), "Q4_K", 256)
    noise = to_floats("Q4_K", blocks, 256) - values
    expected = float(np.square(noise, dtype=np.float64).sum() / np.square(values, dtype=np.float64).sum())
    assert relative_error("Q4_K", sample, None) == pytest.approx(expected, rel=0.02)


def test_weights_count_in_the_error_and_in_the_rounding() -> None:
    rows = np.random.default_rng(0).standard_normal((64, 256), np.float32)
    weights = (10 ** np.random.default_rng(1).uniform(-3, 3, 256)).astype(np.float32)
    plain = relative_error("Q4_K", rows, weights, round_with_weights=False)
    assert relative_error("Q4_K", rows, weights) < 0.8 * plain
    blocks, _ = convert_rows("F32", rows.view(np.uint8), "Q4_K", 256)
    noise = to_floats("Q4_K", blocks, 256) - rows
    wide = weights.astype(np.float64)
    assert plain == pytest.approx((noise**2 @ wide).sum() / (rows**2 @ wide).sum(), rel=1e-5)


def test_rows_of_zeros_have_no_error() -> None:
    assert relative_error("Q4_K", np.zeros((8, 256), np.float32), None) == 0.0
