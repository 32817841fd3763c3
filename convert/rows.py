"""Rows of tensors, read from their files where they are needed; never a whole tensor."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import TracebackType

import numpy as np
import numpy.typing as npt

from convert.errors import CheckpointError, ConvertError
from convert.quantize import to_floats
from convert.shard import SourceTensor

BLOCK_BYTES = 8 * 2**20  # of float32, unless one row is larger


class FileRows:
    """Reads rows of tensors; any thread may. Use it in a `with` statement: it keeps the files open.

    Raises CheckpointError naming file and tensor when a file cannot be read or has become shorter.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> FileRows:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; may be called twice."""
        with self._lock:
            for handle in self._files.values():
                os.close(handle)
            self._files.clear()

    def read(self, tensor: SourceTensor, first: int, n: int) -> npt.NDArray[np.uint8]:
        """Rows first.. of a tensor as they are in the file: [n, row_bytes]."""
        rows = np.empty((n, tensor.row_bytes), np.uint8)
        left = rows.data.cast("B")
        offset = tensor.offset + first * tensor.row_bytes
        try:
            handle = self._open(tensor)
            while left:
                done = os.preadv(handle, [left], offset)
                if done == 0:
                    raise CheckpointError(f"{tensor.path} ends inside tensor {tensor.name}: it became shorter")
                left, offset = left[done:], offset + done
        except OSError as error:
            raise CheckpointError(f"cannot read tensor {tensor.name} of {tensor.path}: {error.strerror}") from error
        return rows

    def floats(self, tensor: SourceTensor, first: int, n: int) -> npt.NDArray[np.float32]:
        """Rows first.. of a tensor: [n, n_per_row]."""
        rows = self.read(tensor, first, n)
        if tensor.dtype == "F32":
            return rows.view(np.float32)
        try:
            return to_floats(tensor.dtype, rows, tensor.n_per_row)
        except ConvertError as error:
            raise CheckpointError(f"{tensor.path}: tensor {tensor.name} {error}") from error

    def float_blocks(self, tensor: SourceTensor) -> Iterator[npt.NDArray[np.float32]]:
        """All rows of a tensor, some at a time."""
        for first, n in row_blocks(tensor):
            yield self.floats(tensor, first, n)

    def _open(self, tensor: SourceTensor) -> int:
        path = os.fspath(tensor.path)
        with self._lock:
            if path not in self._files:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._files[path]


def row_blocks(tensor: SourceTensor, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
    """The tensor in pieces (first row, rows) of about ``block_bytes`` as float32."""
    n_block = max(1, block_bytes // (4 * tensor.n_per_row))
    for first in range(0, tensor.n_rows, n_block):
        yield first, min(n_block, tensor.n_rows - first)
