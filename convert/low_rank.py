"""A change of low rank to a weight matrix, kept as two thin factors and multiplied out a block of rows at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.shard import SourceTensor

_CHUNK = 32  # rows
_MAX_COPIES = 2  # a tensor's last blocks and the next one's first are worked on at once
_RAW = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class LowRank:
    """scale * B A, on top of the change ``below`` where several are added to one matrix.

    ``a`` is [r, n_in] and ``b`` [n_out, r], in the bytes of their file: float32, float16, or the bits of BF16 as
    uint16. They are usually mapped: the adapter of a large model takes gigabytes as float32.
    """

    a: npt.NDArray[Any]
    b: npt.NDArray[Any]
    scale: float
    below: LowRank | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in), the shape of the matrix that is changed."""
        return len(self.b), self.a.shape[1]

    @property
    def rank(self) -> int:
        """Of this change, without those below."""
        return len(self.a)

    def rows(self, first: int, n: int) -> npt.NDArray[np.float32]:
        """What is added to the rows first .. first + n - 1: float32 [n, n_in], a new array. Any thread may ask."""
        out = np.empty((n, self.shape[1]), np.float32)
        a = _copies.take(self.a)
        try:
            # Products of the same rows whatever block is asked for: a matrix product may round each shape in its own
            # way.
            for start in range(first - first % _CHUNK, first + n, _CHUNK):
                product = (floats(self.b[start : start + _CHUNK]) * np.float32(self.scale)) @ a
                begin, end = max(start, first), min(start + _CHUNK, first + n)
                out[begin - first : end - first] = product[begin - start : end - start]
        finally:
            del a  # or it would outlive its place among the copies
            _copies.give_back(self.a)
        if self.below is not None:
            out += self.below.rows(first, n)
        return out


def map_raw(tensor: SourceTensor) -> npt.NDArray[Any]:
    """A tensor of a safetensors file, mapped: float32, float16, or the bits of BF16 as uint16."""
    return np.memmap(tensor.path, _RAW[tensor.dtype], "r", tensor.offset, tensor.shape)


def floats(raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A copy as float32 of what :func:`map_raw` gives."""
    if raw.dtype == np.uint16:
        raw = np.left_shift(raw, 16, dtype=np.uint32).view(np.float32)
    return np.array(raw, np.float32)


class _Copies:
    """The factors A as float32, shared by all threads: those of rank 256 take 34 MB each, too much for every thread.

    There are never more than _MAX_COPIES: who needs another waits until one is out of use.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._copies: dict[int, _Copy] = {}  # by the raw array's id, the longest unused one first

    def take(self, raw: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """``raw`` as float32, until it is given back. One at a time, or threads would wait for each other."""
        with self._changed:
            self._changed.wait_for(lambda: id(raw) in self._copies or self._has_room())
            copy = self._copies.pop(id(raw), None) or _Copy(raw, floats(raw))
            self._copies[id(raw)] = copy
            copy.n_users += 1
            return copy.values

    def give_back(self, raw: npt.NDArray[Any]) -> None:
        """Nothing may refer to the values any more."""
        with self._changed:
            self._copies[id(raw)].n_users -= 1
            self._changed.notify_all()

    def _has_room(self) -> bool:
        """Whether there is room for one more, which is made where a copy is out of use."""
        unused = next((key for key, copy in self._copies.items() if copy.n_users == 0), None)
        if len(self._copies) == _MAX_COPIES and unused is not None:
            del self._copies[unused]
        return len(self._copies) < _MAX_COPIES


@dataclass
class _Copy:
    """``raw`` is kept, so that no other array gets its id."""

    raw: npt.NDArray[Any]
    values: npt.NDArray[np.float32]
    n_users: int = 0


_copies = _Copies()
