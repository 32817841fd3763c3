"""What rounding does to a tensor, measured on a sample of its rows.

The relative error of a type is sum(w * (x - x')^2) / sum(w * x^2) over the elements x of the sampled rows; w is the
weight of the element's column, the mean square of what it is multiplied with, or 1. That is the share of noise in the
tensor's product, when its inputs are not correlated.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from convert.quantize import convert_rows, to_floats

# Of a tensor are looked at: 8 rows or more, about a quarter of a million elements, in up to 16 places evenly spread. A
# relative error comes out within a few percent. A model of 104B takes a minute on two cores, or ten with an importance
# matrix, whose types are slow to round to.
SAMPLE_ELEMENTS = 2**18
_MIN_ROWS = 8
_PLACES = 16


def sample_rows(n_rows: int, n_per_row: int) -> Iterator[tuple[int, int]]:
    """The rows that are looked at, as (first row, rows); always the same ones."""
    n = min(n_rows, max(_MIN_ROWS, SAMPLE_ELEMENTS // n_per_row))
    n_places = min(_PLACES, n)
    if n == n_rows:
        yield 0, n_rows
        return
    for place in range(n_places):
        length = n * (place + 1) // n_places - n * place // n_places
        yield place * (n_rows - length) // max(1, n_places - 1), length


def relative_error(
    ggml_type: str,
    rows: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None,
    *,
    round_with_weights: bool = True,
) -> float:
    """Of rows [n, n_per_row] in a type; 0 for rows of zeros.

    weights: [n_per_row] of the columns. round_with_weights: whether the rounding itself heeds them, too.
    """
    n_per_row = rows.shape[1]
    importance = weights if round_with_weights else None
    blocks, _ = convert_rows("F32", rows.view(np.uint8), ggml_type, n_per_row, importance=importance)
    noise = to_floats(ggml_type, blocks, n_per_row)
    np.subtract(noise, rows, out=noise)
    total = _weighted_squares(rows, weights)
    return _weighted_squares(noise, weights) / total if total > 0 else 0.0


def _weighted_squares(rows: npt.NDArray[np.float32], weights: npt.NDArray[np.float32] | None) -> float:
    columns = np.einsum("ij,ij->j", rows, rows, dtype=np.float64)
    return float(columns.sum() if weights is None else columns @ weights.astype(np.float64))
