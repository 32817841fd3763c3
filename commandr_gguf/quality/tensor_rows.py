"""Weights of a GGUF file as floats, a block of rows at a time, from the mapped file or files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import FileError, UnsupportedError
from commandr_gguf.gguf_file import GGUFFile, TensorInfo
from commandr_gguf.quantize import dequantize_rows

_BLOCK = 1 << 18


def n_elements(tensor: TensorInfo) -> int:
    """Elements of a tensor."""
    return tensor.shape[0] * n_rows(tensor)


def n_rows(tensor: TensorInfo) -> int:
    """Rows of a tensor, all dimensions but the contiguous one together."""
    n = 1
    for size in tensor.shape[1:]:
        n *= size
    return n


def row_blocks(tensor: TensorInfo) -> Iterator[slice]:
    """Slices that cover all rows, each of about 1 MiB in float32."""
    step = max(1, _BLOCK // tensor.shape[0])
    for start in range(0, n_rows(tensor), step):
        yield slice(start, min(start + step, n_rows(tensor)))


class TensorRows:
    """The tensors of an open GGUF file, or of all files of a split model.

    Its methods may be called by several threads at once.

    Raises:
        FileError: the file cannot be mapped.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.tensors = {tensor.name: tensor for tensor in file.tensors}
        """By name, in file order."""
        self._bytes = {path: _map(path) for path in file.files}

    def raw(self, tensor: TensorInfo) -> npt.NDArray[np.uint8]:
        """[n_rows, row_bytes] as in the file, and not a copy."""
        data = self._bytes[tensor.path][tensor.offset : tensor.offset + tensor.size]
        return data.reshape(n_rows(tensor), tensor.size // n_rows(tensor))

    def floats(self, tensor: TensorInfo, rows: slice) -> npt.NDArray[np.float32]:
        """[n_rows, n_per_row] of the rows of a slice.

        Raises:
            UnsupportedError: the tensor is of a type that does not stand for floats.
        """
        try:
            return dequantize_rows(tensor.type, self.raw(tensor)[rows], tensor.shape[0], n_threads=1)
        except UnsupportedError as error:
            raise UnsupportedError(f"{tensor.path}: {tensor.name} holds no weights: {error}") from error


def _map(path: str) -> npt.NDArray[np.uint8]:
    try:
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: the file cannot be mapped: {error}") from error
