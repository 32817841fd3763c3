"""How far the weights of one file are from those of another."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from commandr_gguf.devices import default_n_threads
from commandr_gguf.gguf_file import TensorInfo
from commandr_gguf.quality.tensor_rows import TensorRows, n_elements, row_blocks


@dataclass(frozen=True)
class TensorError:
    """Sums over weights a and their approximations b; errors of several tensors add up."""

    error: float = 0.0
    """Sum of (a - b)^2."""
    square: float = 0.0
    """Sum of a^2."""
    other_square: float = 0.0
    """Sum of b^2."""
    product: float = 0.0
    """Sum of a * b."""
    largest: float = 0.0
    """The largest |a - b|."""

    @classmethod
    def of(cls, a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> TensorError:
        """Between two arrays of one shape, summed in float64."""
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        d = x - y
        error, square, other, product = (float(np.dot(*pair)) for pair in ((d, d), (x, x), (y, y), (x, y)))
        return cls(error, square, other, product, float(np.abs(d, out=d).max()))

    def __add__(self, other: TensorError) -> TensorError:
        return TensorError(
            self.error + other.error,
            self.square + other.square,
            self.other_square + other.other_square,
            self.product + other.product,
            float(np.maximum(self.largest, other.largest)),  # keeps a NaN
        )

    @property
    def relative(self) -> float:
        """The squared relative error, sum of (a - b)^2 by sum of a^2.

        NaN where values are not finite, infinite where all a are 0 and b are not.
        """
        if self.square == 0:
            return math.inf if self.error > 0 else 0.0
        return self.error / self.square

    @property
    def relative_rms(self) -> float:
        """The relative RMS error: root mean square of a - b by that of a, the square root of `relative`."""
        return math.sqrt(self.relative)

    @property
    def cosine(self) -> float:
        """Of the angle between a and b; NaN where one of them is 0."""
        norm = math.sqrt(self.square) * math.sqrt(self.other_square)
        return self.product / norm if norm else math.nan


@dataclass(frozen=True)
class TensorPair:
    """What two files have under one name."""

    name: str
    a: TensorInfo | None
    b: TensorInfo | None
    error: TensorError | None
    """None where one file lacks it, or where the shapes differ."""


Progress = Callable[[int], object]
"""Called with the elements compared since the last call."""


def compare_tensors(
    a: TensorRows, b: TensorRows, *, n_threads: int = 0, progress: Progress | None = None
) -> list[TensorPair]:
    """All tensors of A in file order, then those that only B has. Blocks of rows are in memory, never a whole tensor.

    Args:
        a: the weights.
        b: their approximations.
        n_threads: 0 = the physical cores that this process may use.
        progress: called after each block.
    """
    pairs = []
    with ThreadPoolExecutor(n_threads or default_n_threads()) as pool:
        for name in a.tensors | b.tensors:
            of_a, of_b = a.tensors.get(name), b.tensors.get(name)
            error = None
            if of_a is not None and of_b is not None and of_a.shape == of_b.shape:
                error = _compare(a, b, of_a, of_b, pool, progress)
            pairs.append(TensorPair(name, of_a, of_b, error))
    return pairs


def common_elements(a: TensorRows, b: TensorRows) -> int:
    """Elements that `compare_tensors` will compare."""
    both = (tensor for name, tensor in a.tensors.items() if name in b.tensors)
    return sum(n_elements(tensor) for tensor in both if tensor.shape == b.tensors[tensor.name].shape)


def _compare(
    a: TensorRows,
    b: TensorRows,
    of_a: TensorInfo,
    of_b: TensorInfo,
    pool: ThreadPoolExecutor,
    progress: Progress | None,
) -> TensorError:
    def compare_block(rows: slice) -> tuple[TensorError, int]:
        floats = a.floats(of_a, rows)
        return TensorError.of(floats, b.floats(of_b, rows)), floats.size

    total = TensorError()
    for error, n in pool.map(compare_block, row_blocks(of_a)):
        total += error
        if progress is not None:
            progress(n)
    return total
