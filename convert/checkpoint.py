"""A checkpoint folder: its JSON files and its tensors, never more than a block of rows of one in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from convert.errors import CheckpointError
from convert.shard import ITEM_SIZES, SourceTensor, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}

BLOCK_BYTES = 32 * 2**20  # of float32, unless one row is larger


class Checkpoint:
    """A folder with config.json, tokenizer.json and safetensors files.

    ``tensors`` maps each tensor's name to its place. Use as a context manager: it keeps the shards open. Raises
    CheckpointError naming the file or tensor when the folder is incomplete or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} is not a folder with a checkpoint")
        self.config = read_json(self.folder / "config.json")
        self.tokenizer_config = read_json(self.folder / "tokenizer_config.json", required=False)
        self.generation_config = read_json(self.folder / "generation_config.json", required=False)
        self.tensors = _read_tensors(self.folder)
        self._files: dict[Path, BinaryIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the shards; may be called twice."""
        self._stack.close()
        self._files.clear()

    def raw_rows(self, tensor: SourceTensor, block_bytes: int = BLOCK_BYTES) -> Iterator[npt.NDArray[Any]]:
        """The tensor's rows, unconverted, in blocks [n_rows, n_per_row] of about ``block_bytes`` as float32.

        The dtype is uint16 for BF16 (its bits), float16 or float32. Each block is valid until the next one is asked
        for: they share their memory.
        """
        n_per_row, n_rows = (tensor.shape or (1,))[-1], tensor.n_rows
        n_block = max(1, min(n_rows, block_bytes // (4 * n_per_row)))
        buffer: npt.NDArray[Any] = np.empty((n_block, n_per_row), _DTYPES[tensor.dtype])
        for first in range(0, n_rows, n_block):
            block = buffer[: min(n_block, n_rows - first)]
            self._read(tensor, first * n_per_row * ITEM_SIZES[tensor.dtype], block.data.cast("B"))
            yield block

    def float_rows(self, tensor: SourceTensor, block_bytes: int = BLOCK_BYTES) -> Iterator[npt.NDArray[np.float32]]:
        """The tensor's rows as float32, in blocks like those of :meth:`raw_rows`."""
        buffer: npt.NDArray[np.float32] | None = None
        for raw in self.raw_rows(tensor, block_bytes):
            if tensor.dtype == "F32":
                yield raw
                continue
            if buffer is None:
                buffer = np.empty(raw.shape, np.float32)
            block = buffer[: len(raw)]
            widen(raw, block)
            yield block

    def _read(self, tensor: SourceTensor, offset: int, target: memoryview) -> None:
        try:
            file = self._files.get(tensor.path)
            if file is None:
                file = self._files[tensor.path] = self._stack.enter_context(tensor.path.open("rb", buffering=0))
            file.seek(tensor.offset + offset)
            done = 0
            while done < len(target):
                n = file.readinto(target[done:])  # type: ignore[attr-defined]
                if not n:
                    raise CheckpointError(f"{tensor.path} ends inside tensor {tensor.name}: it became shorter")
                done += n
        except OSError as error:
            raise CheckpointError(f"cannot read tensor {tensor.name} of {tensor.path}: {error.strerror}") from error


def widen(raw: npt.NDArray[Any], out: npt.NDArray[np.float32]) -> None:
    """BF16 bits (uint16) or float16 to float32, without a temporary of the block's size."""
    if raw.dtype == np.uint16:
        np.left_shift(raw, 16, out=out.view(np.uint32), dtype=np.uint32)
    else:
        np.copyto(out, raw)


def read_json(path: Path, *, required: bool = True) -> dict[str, Any]:
    """A JSON object; {} when the file is absent and not required. Raises CheckpointError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise CheckpointError(f"{path} is missing") from None
        return {}
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def _read_tensors(folder: Path) -> dict[str, SourceTensor]:
    # A single file wins over an index, as in transformers.
    if (folder / SINGLE).exists():
        return read_header(folder / SINGLE)
    if (folder / INDEX).exists():
        return _read_sharded(folder)
    if any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} holds neither {SINGLE} nor {INDEX}, only other safetensors files")
    if any(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(f"{folder} holds its weights as pytorch_model*.bin: only safetensors files are read")
    raise CheckpointError(f"{folder} holds no {SINGLE} and no {INDEX}")


def _read_sharded(folder: Path) -> dict[str, SourceTensor]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX}: weight_map is missing or does not map tensors to files")
    tensors: dict[str, SourceTensor] = {}
    for shard in sorted(set(weight_map.values())):
        if shard in ("", "..") or Path(shard).name != shard:
            raise CheckpointError(f"{folder / INDEX}: {shard!r} is not the name of a file in the folder")
        if not (folder / shard).exists():
            raise CheckpointError(f"{folder / shard} is missing; {INDEX} names it")
        found = read_header(folder / shard)
        for name, tensor in found.items():
            if weight_map.get(name) != shard:
                raise CheckpointError(f"{folder / shard} holds tensor {name}, which {INDEX} does not place there")
            tensors[name] = tensor
        for name in (name for name, file in weight_map.items() if file == shard and name not in found):
            raise CheckpointError(f"{folder / shard} lacks tensor {name}, which {INDEX} places there")
    return tensors
