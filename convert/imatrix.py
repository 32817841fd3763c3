"""Importance matrices: how much each column of a weight matters, from activations seen on a text.

Two formats, both llama.cpp's (tools/imatrix, common/imatrix-loader.cpp):

    GGUF    general.type = "imatrix", imatrix.datasets (strings), imatrix.chunk_count, imatrix.chunk_size (u32);
            for a weight W: W.in_sum2 F32 [n_per_row] sums of squared activations, W.counts F32 [1] tokens they are of
    legacy  i32 entries; each: i32 length, name, i32 calls, i32 n_per_row, f32 [n_per_row] mean squares times calls;
            then, if present: i32 chunks, i32 length, name of the text

A column's weight is its mean square. Where nothing was counted all columns weigh 1.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import CommandRError
from commandr_gguf.gguf_file import GGUFFile, TensorInfo
from convert.errors import ArgumentError
from convert.recipe import HOW_TO_MAKE_IMATRIX, needs_imatrix

Weights = npt.NDArray[np.float32]

# The embedding is also the head, whose activations count; llama.cpp collects none for it.
_OTHER_NAME = {"token_embd.weight": "output.weight"}
_UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class ImportanceMatrix:
    """``entries``: weights of columns by tensor name; ``datasets``, ``n_chunks``: what they were collected on."""

    path: Path
    entries: Mapping[str, Weights]
    datasets: tuple[str, ...]
    n_chunks: int
    sha256: str

    def columns(self, name: str, n_per_row: int) -> Weights | None:
        """[n_per_row] weights for the tensor called ``name`` in the GGUF file; None when it has no entry.

        Raises ArgumentError when the entry is of another length.
        """
        found = self.entries.get(name)
        if found is None:
            found = self.entries.get(_OTHER_NAME.get(name, ""))
        if found is not None and found.size != n_per_row:
            raise ArgumentError(
                f"{self.path} has {found.size} columns for {name}, whose rows have {n_per_row}: it was made for "
                f"another model"
            )
        return found


def column_weights(
    imatrix: ImportanceMatrix | None, tensors: Iterable[tuple[str, str, int]], *, recipe: str = ""
) -> tuple[dict[str, Weights], list[str]]:
    """The weights for each tensor (name, ggml type, n_per_row) that has some, and notes on those that have none.

    ``recipe``: the name of the file type. Raises ArgumentError naming a tensor whose type needs weights it has not.
    """
    weights: dict[str, Weights] = {}
    missing: list[str] = []
    for name, ggml_type, n_per_row in tensors:
        if ggml_type in _UNQUANTIZED:
            continue
        found = None if imatrix is None else imatrix.columns(name, n_per_row)
        if found is not None:
            weights[name] = found
        elif needs_imatrix(ggml_type, recipe):
            why = HOW_TO_MAKE_IMATRIX if imatrix is None else f"{imatrix.path} has no entry for it"
            raise ArgumentError(f"tensor {name} cannot be {ggml_type} without an importance matrix: {why}")
        else:
            missing.append(name)
    if imatrix is None or not missing:
        return weights, []
    others = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
    return weights, [f"{imatrix.path} has no entry for {', '.join(missing[:3])}{others}: rounded without weights"]


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read a file of either format. Raises ArgumentError naming the file and, where one is at fault, the tensor."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            sha256 = _digest(file)
            if magic != b"GGUF":
                file.seek(0)
                return ImportanceMatrix(path, *_read_legacy(path, file), sha256)
    except OSError as error:
        raise ArgumentError(f"cannot read {path}: {error.strerror}") from error
    try:
        return ImportanceMatrix(path, *_read_gguf(path), sha256)
    except CommandRError as error:
        raise ArgumentError(f"{path} is not an importance matrix: {error}") from error


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(2**20), b""):
        digest.update(block)
    return digest.hexdigest()


def _read_gguf(path: Path) -> tuple[dict[str, Weights], tuple[str, ...], int]:
    with GGUFFile(path) as file:
        if file.typed("general.type", str, "") != "imatrix":
            raise ArgumentError(f"{path} is not an importance matrix: its general.type is not 'imatrix'")
        tensors = {tensor.name: tensor for tensor in file.tensors}
        names = sorted({name.rpartition(".")[0] for name in tensors if name.endswith((".in_sum2", ".counts"))})
        if not names:
            raise ArgumentError(f"{path} holds no entries")
        entries = {name: _mean_squares(path, name, tensors) for name in names}
        datasets = file.typed_list("imatrix.datasets", str) if "imatrix.datasets" in file else []
        return entries, tuple(datasets), file.typed("imatrix.chunk_count", int, 0)


def _mean_squares(path: Path, name: str, tensors: Mapping[str, TensorInfo]) -> Weights:
    sums, counts = (_values(path, name, tensors.get(f"{name}{suffix}")) for suffix in (".in_sum2", ".counts"))
    if counts.size != 1:
        raise ArgumentError(f"{path}: the entry of {name} counts {counts.size} experts; a Command-R model has none")
    _check(path, name, sums)
    _check(path, name, counts)
    count = np.float32(math.floor(float(counts[0]) + 0.5))  # a whole number, as llama.cpp reads it
    return _not_all_zero(path, name, np.ones_like(sums) if count == 0 else sums / count)


def _values(path: Path, name: str, tensor: TensorInfo | None) -> Weights:
    if tensor is None or tensor.type != "F32":
        raise ArgumentError(f"{path}: the entry of {name} is not whole: it needs sums and counts, both F32")
    return np.fromfile(path, "<f4", tensor.size // 4, offset=tensor.offset)


def _check(path: Path, name: str, values: Weights) -> None:
    if not np.isfinite(values).all() or (values < 0).any():
        raise ArgumentError(f"{path}: the entry of {name} holds a value that is negative, infinite or no number")


def _not_all_zero(path: Path, name: str, weights: Weights) -> Weights:
    if not weights.any():  # all of the tensor would be rounded to 0
        raise ArgumentError(f"{path}: the entry of {name} is 0 in every column")
    return weights


def _read_legacy(path: Path, file: BinaryIO) -> tuple[dict[str, Weights], tuple[str, ...], int]:
    size = path.stat().st_size
    try:
        entries = dict(_legacy_entries(path, file, size))
    except (struct.error, UnicodeDecodeError):
        raise ArgumentError(f"{path} is not an importance matrix, or it ends too early") from None
    if file.tell() == size:
        return entries, (), 0
    try:
        n_chunks = _int32(file)
        return entries, (_text(file, size),), max(0, n_chunks)
    except (struct.error, UnicodeDecodeError):
        raise ArgumentError(f"{path} ends inside the description of its text") from None


def _legacy_entries(path: Path, file: BinaryIO, size: int) -> Iterator[tuple[str, Weights]]:
    n_entries = _int32(file)
    if n_entries < 1:
        raise struct.error
    for _ in range(n_entries):
        name = _text(file, size)
        n_calls, n_values = _int32(file), _int32(file)
        if not 0 < n_values <= (size - file.tell()) // 4:
            raise struct.error
        values = np.frombuffer(file.read(4 * n_values), "<f4")
        _check(path, name, values)
        yield name, _not_all_zero(path, name, values / np.float32(n_calls) if n_calls > 0 else values)


def _int32(file: BinaryIO) -> int:
    number: int = struct.unpack("<i", file.read(4))[0]
    return number


def _text(file: BinaryIO, size: int) -> str:
    length = _int32(file)
    if not 0 <= length <= size - file.tell():
        raise struct.error
    return file.read(length).decode()
