"""One safetensors file: its header, checked, and the bytes of its tensors, read where they are needed.

The safetensors package gives numpy no BF16, so it validates the file here and the data is read by the header's offsets:

    8 bytes   n, the header's length, little-endian
    n bytes   JSON: {"tensor name": {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [begin, end]}, ...}
    the rest  tensor data; the offsets count from here
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from safetensors import SafetensorError, safe_open

from convert.errors import CheckpointError, UnsupportedError
from convert.ggml_types import row_size

DTYPES = ("BF16", "F16", "F32")  # called the same in both formats

_MAX_HEADER = 100_000_000  # the limit of the safetensors format
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class SourceTensor:
    """A tensor in a file: ``shape`` in elements, rows first; ``offset`` in bytes from the file's start.

    ``dtype`` is the name of a ggml type; those of safetensors that are read are called the same.
    """

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def n_elements(self) -> int:
        """All of them."""
        return math.prod(self.shape)

    @property
    def n_per_row(self) -> int:
        """Elements of a row; 1 for a scalar."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Of the last dimension's length; 1 for a vector."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Of a row in the file."""
        return row_size(self.dtype, self.n_per_row)

    @property
    def n_bytes(self) -> int:
        """In the file."""
        return self.n_rows * self.row_bytes


def read_header(path: Path) -> dict[str, SourceTensor]:
    """The tensors of a safetensors file by name. Raises CheckpointError or UnsupportedError, naming file and tensor."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
            if start == _LFS_POINTER:
                raise CheckpointError(f"{path} is a Git LFS pointer, not the weights: fetch them with 'git lfs pull'")
            n_header = int.from_bytes(start[:8], "little")
            if len(start) < 8 or n_header > size - 8:
                raise CheckpointError(
                    f"{path} is not a whole safetensors file: its header does not fit in {size} bytes"
                )
            if n_header > _MAX_HEADER:
                raise CheckpointError(f"{path} has a header of {n_header} bytes, and the format allows {_MAX_HEADER}")
            file.seek(8)
            text = file.read(n_header)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is not a safetensors file: its header is not a JSON object")

    header.pop("__metadata__", None)
    data = 8 + n_header
    tensors = {name: _tensor(path, name, entry, data, size) for name, entry in header.items()}
    _check_with_reference(path)
    return tensors


def _tensor(path: Path, name: str, entry: Any, data: int, size: int) -> SourceTensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: the header's entry of tensor {name} is malformed")
    if 0 in shape:
        raise CheckpointError(f"{path}: tensor {name} of shape {shape} has no elements")
    if dtype not in DTYPES:
        raise UnsupportedError(f"{path}: tensor {name} is {dtype}, only {', '.join(DTYPES)} are supported")
    tensor = SourceTensor(name, path, dtype, tuple(shape), data + offsets[0])
    if offsets[1] - offsets[0] != tensor.n_bytes:
        raise CheckpointError(
            f"{path}: tensor {name} of shape {list(shape)} takes {tensor.n_bytes} bytes, but its offsets span "
            f"{offsets[1] - offsets[0]}"
        )
    if data + offsets[1] > size:
        raise CheckpointError(
            f"{path} ends inside tensor {name}: the file has {size} bytes and its header needs {data + offsets[1]} "
            f"for it"
        )
    return tensor


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _check_with_reference(path: Path) -> None:
    """What the format demands beyond the above, such as no gaps and no overlaps between tensors."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a valid safetensors file: {error}") from error
