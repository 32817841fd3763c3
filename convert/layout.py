"""Where everything lies in the file or files that a plan becomes: header bytes, tensor offsets, sizes.

The gguf package writes the headers. A model of several files is split as llama.cpp splits it: NAME-00001-of-00003.gguf
and so on, whole tensors in each, the keys in the first, and split.no, split.count and split.tensors.count in all.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from convert.errors import ArgumentError
from convert.metadata import Keys, Value
from convert.plan import Plan, PlannedTensor

ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT

_ARCHITECTURE = "general.architecture"
_MAX_FILES = 65535  # split.count has 16 bits


@dataclass(frozen=True)
class OutputFile:
    """``header``: all bytes before the tensor data; ``offsets``: of each tensor, in bytes from the file's start."""

    path: Path
    header: bytes
    offsets: dict[str, int]
    size: int


def lay_out(plan: Plan, path: Path, *, max_bytes: int | None = None) -> list[OutputFile]:
    """The files of a plan: one, or several of at most ``max_bytes`` each, unless a single tensor is larger."""
    if max_bytes is not None and max_bytes < 1:
        raise ArgumentError(f"the largest size of a file must be positive, not {max_bytes}")
    groups = [plan.tensors] if max_bytes is None else _split(plan, max_bytes)
    if len(groups) == 1:
        return [_lay_out(path, plan.keys, plan.tensors)]
    if len(groups) > _MAX_FILES:
        raise ArgumentError(f"{len(groups)} files are more than the format allows: choose a larger size for each")
    return [
        _lay_out(
            split_path(path, i, len(groups)),
            (plan.keys if i == 0 else {}) | _split_keys(i, len(groups), len(plan.tensors)),
            group,
        )
        for i, group in enumerate(groups)
    ]


def split_path(path: Path, i: int, n: int) -> Path:
    """The name of file ``i`` (from 0) of ``n``; readers want it to end in .gguf."""
    stem = re.sub(r"(-[0-9]{5}-of-[0-9]{5})?(\.gguf)?$", "", path.name)
    return path.with_name(f"{stem}-{i + 1:05d}-of-{n:05d}.gguf")


def _split(plan: Plan, max_bytes: int) -> list[list[PlannedTensor]]:
    """Tensors in order, as many in each file as fit behind its header."""
    split_keys = _split_keys(0, 1, len(plan.tensors))
    first, others = (len(_header(keys, plan.tensors)) for keys in (plan.keys | split_keys, split_keys))
    groups: list[list[PlannedTensor]] = [[]]
    left = max_bytes - first
    for tensor in plan.tensors:
        size = _padded(tensor.n_bytes)
        if size > left and groups[-1]:
            groups.append([])
            left = max_bytes - others
        groups[-1].append(tensor)
        left -= size
    return groups


def _split_keys(i: int, n: int, n_tensors: int) -> Keys:
    return {
        "split.no": Value(i, gguf.GGUFValueType.UINT16),
        "split.count": Value(n, gguf.GGUFValueType.UINT16),
        "split.tensors.count": Value(n_tensors, gguf.GGUFValueType.INT32),
    }


def _lay_out(path: Path, keys: Keys, tensors: Sequence[PlannedTensor]) -> OutputFile:
    header = _header(keys, tensors)
    offsets, end = {}, len(header)
    for tensor in tensors:
        offsets[tensor.name] = end
        end += _padded(tensor.n_bytes)
    return OutputFile(path, header, offsets, end)


def _header(keys: Keys, tensors: Sequence[PlannedTensor]) -> bytes:
    """Header, keys and tensor descriptions, padded to where the data begins."""
    writer = _MemoryWriter(keys[_ARCHITECTURE].value if _ARCHITECTURE in keys else "")
    if _ARCHITECTURE not in keys:
        writer.kv_data[0].clear()  # it adds that key by itself
    for name, (value, kind, sub_type) in keys.items():
        if name != _ARCHITECTURE:
            writer.add_key_value(name, value, kind, sub_type)
    for tensor in tensors:
        # The dtype is not looked at when the ggml type is given, but for uint8, which would mean a shape in bytes.
        raw = gguf.GGMLQuantizationType[tensor.ggml_type]
        writer.add_tensor_info(tensor.name, tensor.source.shape, np.dtype(np.float32), tensor.n_bytes, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    header = writer.buffer.getvalue()
    return header + bytes(_padded(len(header)) - len(header))


class _MemoryWriter(gguf.GGUFWriter):
    """Writes into memory."""

    def __init__(self, architecture: str) -> None:
        super().__init__(None, architecture)
        self.buffer = io.BytesIO()

    def open_output_file(self, path: Path | None = None) -> None:
        del path
        self.fout = [self.buffer]  # type: ignore[list-item]  # it only writes to it
        self.state = gguf.gguf_writer.WriterState.EMPTY


def _padded(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT
