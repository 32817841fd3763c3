"""Importance matrices: how large the inputs of each weight matrix are, column by column, in llama.cpp's file format.

Quantization that knows them rounds the weights of loud columns more carefully. A file holds for each matrix W

    W.in_sum2   F32 [n_in]   sums of the squared inputs, over tokens
    W.counts    F32 [1]      the number of tokens

and the keys general.type = "imatrix", imatrix.datasets (strings), imatrix.chunk_count and imatrix.chunk_size (u32), as
llama.cpp's tools/imatrix and common/imatrix-loader write and read them. Its older files, without any key, are read too.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import ArgumentError, FileError, FormatError
from commandr_gguf.gguf_file import GGUFFile, TensorInfo

Sums = npt.NDArray[np.float64]

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DEFAULT_CHUNK_SIZE = 512


@dataclass(frozen=True)
class ColumnSums:
    """The inputs of one matrix."""

    sums: Sums
    """[n_in]: squares, summed up over `n_tokens`."""
    n_tokens: int

    def __add__(self, other: ColumnSums) -> ColumnSums:
        return ColumnSums(self.sums + other.sums, self.n_tokens + other.n_tokens)


@dataclass(frozen=True)
class ImportanceMatrix:
    """The inputs of a model's matrices over some texts."""

    entries: Mapping[str, ColumnSums]
    """By the matrix's name in the model's GGUF file."""
    datasets: tuple[str, ...] = ()
    """Names of the texts."""
    chunk_size: int = _DEFAULT_CHUNK_SIZE
    """Tokens per chunk."""

    @property
    def n_chunks(self) -> int:
        """Whole chunks that went into the sums."""
        return max((entry.n_tokens for entry in self.entries.values()), default=0) // self.chunk_size

    @staticmethod
    def merge(matrices: Iterable[ImportanceMatrix]) -> ImportanceMatrix:
        """The sums over all texts of several. The chunk size is the last one's.

        Raises:
            ArgumentError: they belong to different models: a matrix has another number of columns.
        """
        entries: dict[str, ColumnSums] = {}
        datasets: tuple[str, ...] = ()
        chunk_size = _DEFAULT_CHUNK_SIZE
        for matrix in matrices:
            for name, entry in matrix.entries.items():
                seen = entries.get(name)
                if seen is not None and seen.sums.shape != entry.sums.shape:
                    raise ArgumentError(
                        f"importance matrices of different models cannot be merged: "
                        f"{name} has {seen.sums.size} and {entry.sums.size} columns"
                    )
                entries[name] = entry if seen is None else seen + entry
            datasets += matrix.datasets
            chunk_size = matrix.chunk_size
        return ImportanceMatrix(entries, datasets, chunk_size)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a file that llama.cpp reads; an existing one is replaced at the end. Raises FileError."""
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            self._write(temporary)
            temporary.replace(target)
        except OSError as error:
            raise FileError(f"{os.fspath(path)}: cannot be written: {error.strerror or error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        writer = _Writer(path, "")
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", self.datasets or ("unnamed",))  # the package writes no empty array
        writer.add_uint32("imatrix.chunk_count", self.n_chunks)
        writer.add_uint32("imatrix.chunk_size", self.chunk_size)
        for name in sorted(self.entries):
            entry = self.entries[name]
            writer.add_tensor(name + _SUMS, entry.sums.astype(np.float32))
            writer.add_tensor(name + _COUNTS, np.array([entry.n_tokens], np.float32))
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ImportanceMatrix:
        """Read a file of this or the older format.

        The older one has means over chunks of a size that it does not tell; it is taken for one of 512 tokens.

        Raises:
            FileError: it cannot be read.
            FormatError: it is no importance matrix, or is damaged.
        """
        name = os.fspath(path)
        try:
            with Path(path).open("rb") as file:
                is_gguf = file.read(4) == b"GGUF"
            if not is_gguf:
                return _read_old(name, Path(path).read_bytes())
            with GGUFFile(path) as opened:
                return _read_gguf(name, opened)
        except OSError as error:
            raise FileError(f"{name}: cannot be read: {error.strerror or error}") from error


class _Writer(gguf.GGUFWriter):
    def add_architecture(self) -> None:
        """An importance matrix has none, though the writer's constructor adds it."""


def _read_gguf(path: str, file: GGUFFile) -> ImportanceMatrix:
    tensors = {tensor.name: tensor for tensor in file.tensors}
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    if file.get("general.type", "imatrix") != "imatrix" or not names:
        raise FormatError(f"{path}: the GGUF file is no importance matrix")
    datasets = file.get("imatrix.datasets", [])
    chunk_size = file.get("imatrix.chunk_size", 0)
    return ImportanceMatrix(
        {name: _entry(path, name, tensors[name + _SUMS], tensors.get(name + _COUNTS)) for name in names},
        tuple(map(str, datasets)) if isinstance(datasets, list) else (),
        chunk_size if isinstance(chunk_size, int) and chunk_size > 0 else _DEFAULT_CHUNK_SIZE,
    )


def _entry(path: str, name: str, sums: TensorInfo, counts: TensorInfo | None) -> ColumnSums:
    if counts is None:
        raise FormatError(f"{path}: {name}{_COUNTS} is missing")
    if sums.type != "F32" or counts.type != "F32" or sums.size == 0:
        raise FormatError(f"{path}: the sums and counts of {name} are not in F32")
    n_counts = math.prod(counts.shape)
    if n_counts != 1:
        raise FormatError(f"{path}: {name} has {n_counts} counts; a model of this family has no experts")
    return _checked(path, name, _floats(sums).astype(np.float64), float(_floats(counts)[0]))


def _floats(tensor: TensorInfo) -> npt.NDArray[np.float32]:
    """[n]: all values of an F32 tensor."""
    return np.fromfile(tensor.path, "<f4", math.prod(tensor.shape), offset=tensor.offset)


def _checked(path: str, name: str, sums: Sums, count: float) -> ColumnSums:
    if not np.isfinite(sums).all() or sums.min() < 0 or not 0 <= count < 2**63:
        raise FormatError(f"{path}: {name} has sums or a count that are negative, infinite or no number")
    return ColumnSums(sums, round(count))


def _read_old(path: str, data: bytes) -> ImportanceMatrix:
    """Parse the format before GGUF: little-endian, all integers of 32 bits.

    n_entries, then for each: length and bytes of the name, n_calls, n_values, float32 values = mean * n_calls; at the
    end, where they are there: the number of chunks, length and bytes of the text's name.
    """
    entries: dict[str, ColumnSums] = {}
    datasets: tuple[str, ...] = ()
    try:
        (n_entries,) = struct.unpack_from("<i", data)
        at = 4
        for _ in range(n_entries):
            name, at = _old_string(data, at)
            n_calls, n_values = struct.unpack_from("<ii", data, at)
            values, at = _old_values(data, at + 8, n_values)
            entries[name] = _checked(path, name, values * _DEFAULT_CHUNK_SIZE, float(n_calls * _DEFAULT_CHUNK_SIZE))
        if at < len(data):
            datasets = (_old_string(data, at + 4)[0],)
    except (struct.error, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise FormatError(f"{path}: is no importance matrix, or is damaged") from error
    if not entries:
        raise FormatError(f"{path}: is no importance matrix, or is damaged")
    return ImportanceMatrix(entries, datasets)


def _old_string(data: bytes, at: int) -> tuple[str, int]:
    """The string whose length stands at a place, and the place after it."""
    (length,) = struct.unpack_from("<i", data, at)
    end = at + 4 + length
    if length < 0 or end > len(data):
        raise ValueError(f"a string of {length} bytes")
    return data[at + 4 : end].decode(), end


def _old_values(data: bytes, at: int, n: int) -> tuple[Sums, int]:
    """The n values at a place, and the place after them."""
    if n < 1:  # the next entry would be looked for in front of this one
        raise ValueError(f"{n} values")
    return np.frombuffer(data, "<f4", n, at).astype(np.float64), at + 4 * n
