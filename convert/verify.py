"""A written file beside what it was made from: the error of every tensor, and whether its type can have that error.

The error of a tensor is the root of the mean square of the differences over that of its values. LIMITS are for the
worst tensors that a type can meet, one large value among small ones in each block, with room above what such tensors
gave; usual weights have a third of that. A tensor beyond its limit was not made from these values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.errors import CheckpointError, VerifyError
from convert.gguf_header import read_gguf_header
from convert.plan import Plan, PlannedTensor
from convert.quantize import default_n_threads
from convert.rows import FileRows, row_blocks
from convert.shard import SourceTensor

LIMITS = {
    "F32": 0.0,
    "F16": 2.0**-11,
    "BF16": 2.0**-8,
    "Q8_0": 0.03,
    "Q6_K": 0.1,
    "Q5_K": 0.25,
    "Q5_0": 0.25,
    "Q5_1": 0.25,
    "Q4_K": 0.45,
    "Q4_0": 0.45,
    "Q4_1": 0.45,
    "IQ4_XS": 0.45,
    "IQ4_NL": 0.45,
}
"""The largest relative error by type.

In a block of n values and steps s between two of the type's, n - 1 values of s / 2 beside one of 1 may vanish:
sqrt(n - 1) s / 2, which is 0.022 for Q8_0, 0.17 for Q5_0 and 0.35 for Q4_0.
"""

_OTHERS = 0.7  # three bits and fewer
_WITH_IMPORTANCE = 2.0  # times: columns that matter little are rounded worse
_ABSOLUTE = 1e-5  # beside it: values so small vanish, because F16 has no smaller scales
_BLOCK_BYTES = 8 * 2**20  # of float32, unless one row is larger

Progress = Callable[[PlannedTensor, int], None]


@dataclass(frozen=True)
class TensorError:
    """``error`` is relative, as above; ``largest`` is the largest difference, in the values' own unit."""

    name: str
    ggml_type: str
    error: float
    largest: float
    is_sound: bool


def verify(
    plan: Plan, paths: Sequence[Path], *, n_threads: int = 0, progress: Progress | None = None
) -> list[TensorError]:
    """The errors of all tensors of the files ``paths`` that the plan was written to, in its order.

    n_threads: 0 = the physical cores that this process may use. progress: told each tensor and its bytes when it is
    done. Raises VerifyError when a file is damaged or does not hold the tensors of the plan.
    """
    try:
        written = {tensor.name: tensor for path in paths for tensor in read_gguf_header(path).tensors}
    except CheckpointError as error:
        raise VerifyError(f"the file is damaged: {error}") from error
    for tensor in plan.tensors:
        found = written.pop(tensor.name, None)
        if found is None or (found.dtype, found.shape) != (tensor.ggml_type, tensor.source.shape):
            raise VerifyError(f"{paths[0]}: tensor {tensor.name} is not there as {tensor.ggml_type}")
    if written:
        raise VerifyError(f"{paths[0]}: tensor {next(iter(written))} was not to be written")
    return list(_errors(plan, paths, n_threads or default_n_threads(), progress))


def _errors(plan: Plan, paths: Sequence[Path], n_threads: int, progress: Progress | None) -> Iterator[TensorError]:
    places = {tensor.name: tensor for path in paths for tensor in read_gguf_header(path).tensors}
    with FileRows() as rows, ThreadPoolExecutor(n_threads, thread_name_prefix="verify") as pool:
        for tensor in plan.tensors:
            place = places[tensor.name]
            blocks = list(row_blocks(tensor.source, _BLOCK_BYTES))
            sums = list(pool.map(lambda block, t=tensor, p=place: _compare(rows, t, p, *block), blocks))
            yield _summed(tensor, sums)
            if progress is not None:
                progress(tensor, tensor.n_bytes)


def _compare(
    rows: FileRows, tensor: PlannedTensor, place: SourceTensor, first: int, n: int
) -> tuple[float, float, float]:
    """Of a block: the sums of squares of differences and of values, and the largest difference."""
    expected, found = rows.floats(tensor.source, first, n), rows.floats(place, first, n)
    if tensor.delta is not None:
        expected = expected + tensor.delta.rows(first, n)
    # What is no number is reported when it is converted, and becomes 0 in blocks.
    finite = np.isfinite(expected)
    if not finite.all():
        expected, found = np.where(finite, expected, 0), np.where(finite, found, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        differences = np.abs(found - expected)
        return (
            float(np.square(differences, dtype=np.float64).sum()),
            float(np.square(expected, dtype=np.float64).sum()),
            float(differences.max()),
        )


def _summed(tensor: PlannedTensor, sums: Sequence[tuple[float, float, float]]) -> TensorError:
    n = tensor.source.n_elements
    difference, size = (math.sqrt(sum(block[i] for block in sums) / n) for i in (0, 1))
    limit = LIMITS.get(tensor.ggml_type, _OTHERS) * (1.0 if tensor.importance is None else _WITH_IMPORTANCE)
    exact = tensor.ggml_type in {"F32", "BF16"}
    return TensorError(
        name=tensor.name,
        ggml_type=tensor.ggml_type,
        error=difference / size if size else difference,
        largest=max(block[2] for block in sums),
        is_sound=difference <= limit * size + (0.0 if exact else _ABSOLUTE),
    )


def describe_errors(errors: Sequence[TensorError]) -> Iterator[str]:
    """A line for each tensor, and one for all of them."""
    width = max(len(error.name) for error in errors)
    yield f"{'tensor':<{width}}  type    relative error  largest difference"
    for error in errors:
        mark = "" if error.is_sound else "  more than the type can have"
        yield f"{error.name:<{width}}  {error.ggml_type:<6}  {error.error:>14.6f}  {error.largest:>18.6g}{mark}"
    worst = max(errors, key=lambda error: error.error)
    bad = sum(not error.is_sound for error in errors)
    verdict = f"{bad} of {len(errors)} tensors are wrong" if bad else f"all {len(errors)} tensors are sound"
    yield f"{verdict}; the largest relative error is {worst.error:.6f}, of {worst.name}"
