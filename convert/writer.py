"""A GGUF file, written beside its final place and renamed when it is whole.

The gguf package writes the header, the keys and the tensor descriptions; the tensor data follows block by block.
Whatever stops the writing, an error, an interrupt or a full disk, leaves the final path as it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import numpy.typing as npt

from convert.errors import OutputError
from convert.metadata import Keys
from convert.recipe import row_size
from convert.shard import SourceTensor

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT

_ARCHITECTURE = "general.architecture"


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the file: its name there, where it comes from and its ggml type there."""

    name: str
    source: SourceTensor
    ggml_type: str

    @property
    def n_bytes(self) -> int:
        """In the file, without padding."""
        return self.source.n_rows * row_size(self.ggml_type, self.source.shape[-1])


Rows = Callable[[PlannedTensor], Iterator[npt.NDArray[Any]]]
Progress = Callable[[PlannedTensor, int], None]


def write_gguf(
    path: Path, keys: Keys, tensors: Iterable[PlannedTensor], rows: Rows, progress: Progress | None = None
) -> None:
    """Write a whole file or none.

    ``keys`` hold general.architecture; ``rows`` gives a tensor's data in blocks; ``progress`` is told the tensor and
    the bytes after each block. An existing file at ``path`` is replaced at the very end. Raises OutputError, which says
    what happened, and what ``rows`` raises.
    """
    tensors = list(tensors)
    path = Path(os.path.realpath(path))  # a symbolic link stays, and what it points to is replaced
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _write_header(temporary, keys, tensors)
        _check_free_space(path, sum(_padded(tensor.n_bytes) for tensor in tensors))
        with temporary.open("ab") as file:
            _pad(file)
            for tensor in tensors:
                _write_tensor(file, tensor, rows, progress)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; nothing was written there") from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_header(path: Path, keys: Keys, tensors: list[PlannedTensor]) -> None:
    writer = gguf.GGUFWriter(path, keys[_ARCHITECTURE].value)
    for name, (value, kind, sub_type) in keys.items():
        if name != _ARCHITECTURE:  # the writer adds this one itself, as the first
            writer.add_key_value(name, value, kind, sub_type)
    for tensor in tensors:
        # The dtype is not looked at when the ggml type is given, but for uint8, which would mean a shape in bytes.
        raw = gguf.GGMLQuantizationType[tensor.ggml_type]
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(tensor.name, tensor.source.shape, dtype, tensor.n_bytes, raw_dtype=raw)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _write_tensor(file: BinaryIO, tensor: PlannedTensor, rows: Rows, progress: Progress | None) -> None:
    start = file.tell()
    for block in rows(tensor):
        file.write(block.data.cast("B"))
        if progress is not None:
            progress(tensor, block.nbytes)
    written = file.tell() - start
    if written != tensor.n_bytes:  # every tensor after this one would be read from the wrong place
        raise OutputError(f"tensor {tensor.name} took {written} bytes where {tensor.n_bytes} were planned")
    _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(_padded(file.tell()) - file.tell()))


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _check_free_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OutputError(
            f"cannot write {path}: it takes {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free there"
        )


def _sync_folder(folder: Path) -> None:
    """Makes the new name last through a power cut, where the file system lets a folder be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
