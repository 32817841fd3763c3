"""A written file beside what it was made from: whether every byte is as it should be, and the error of every tensor.

The file is read again and each block is converted once more: the same values give the same bytes. The error of a tensor
is the root of the mean square of the differences over that of its values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.blocks import Block, convert_block
from convert.errors import CheckpointError, VerifyError
from convert.gguf_header import read_gguf_header
from convert.plan import Plan, PlannedTensor
from convert.quantize import default_n_threads
from convert.rows import FileRows, row_blocks
from convert.shard import SourceTensor

_MEMORY = 384 * 2**20  # of blocks that are compared, all threads together
_MAX_BLOCK = 8 * 2**20  # bytes as float32, unless one row is larger
_COPIES = 8  # of a block: its values, the file's, their bytes, differences and squares

Progress = Callable[[PlannedTensor, int], None]


@dataclass(frozen=True)
class TensorError:
    """``error`` is relative, as above; ``largest`` is the largest difference, in the values' own unit.

    ``is_sound``: the file has the very bytes that these values are converted to.
    """

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
    size = min(_MAX_BLOCK, _MEMORY // n_threads // _COPIES)
    with FileRows() as rows, ThreadPoolExecutor(n_threads, thread_name_prefix="verify") as pool:
        for tensor in plan.tensors:
            place = places[tensor.name]
            blocks = [Block(tensor, *block) for block in row_blocks(tensor.source, size)]
            compared = list(pool.map(lambda block, place=place: _compare(rows, block, place), blocks))
            yield _summed(tensor, compared)
            if progress is not None:
                progress(tensor, tensor.n_bytes)


@dataclass(frozen=True)
class _Compared:
    """Of a block: the sums of squares of differences and of values, the largest difference, whether bytes are equal."""

    differences: float
    values: float
    largest: float
    is_equal: bool


def _compare(rows: FileRows, block: Block, place: SourceTensor) -> _Compared:
    tensor, first, n = block.tensor, block.first, block.n
    is_equal = np.array_equal(convert_block(rows, block)[0], rows.read(place, first, n))
    expected, found = rows.floats(tensor.source, first, n), rows.floats(place, first, n)
    if tensor.delta is not None:
        expected += tensor.delta.rows(first, n)
    # What is no number is reported when it is converted, and becomes 0 in blocks.
    finite = np.isfinite(expected)
    if not finite.all():
        expected, found = np.where(finite, expected, 0), np.where(finite, found, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(found, expected, out=found)
        largest = float(np.abs(found).max())
        differences, values = (float(np.einsum("ij,ij->", x, x, dtype=np.float64)) for x in (found, expected))
        return _Compared(differences, values, largest, is_equal)


def _summed(tensor: PlannedTensor, compared: Sequence[_Compared]) -> TensorError:
    differences, values = (
        math.sqrt(sum(getattr(part, name) for part in compared)) for name in ("differences", "values")
    )
    return TensorError(
        name=tensor.name,
        ggml_type=tensor.ggml_type,
        error=differences / values if values else differences,
        largest=max(part.largest for part in compared),
        is_sound=all(part.is_equal for part in compared),
    )


def describe_errors(errors: Sequence[TensorError]) -> Iterator[str]:
    """A line for each tensor, and one for all of them."""
    width = max(len(error.name) for error in errors)
    yield f"{'tensor':<{width}}  type    relative error  largest difference"
    for error in errors:
        mark = "" if error.is_sound else "  not what it was made from"
        yield f"{error.name:<{width}}  {error.ggml_type:<6}  {error.error:>14.6f}  {error.largest:>18.6g}{mark}"
    worst = max(errors, key=lambda error: error.error)
    bad = sum(not error.is_sound for error in errors)
    verdict = f"{bad} of {len(errors)} tensors are wrong" if bad else f"all {len(errors)} tensors are sound"
    yield f"{verdict}; the largest relative error is {worst.error:.6f}, of {worst.name}"
