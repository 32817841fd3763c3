"""A checkpoint folder: its JSON files, and where each of its tensors lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convert.errors import CheckpointError
from convert.quantized import refuse_quantized
from convert.shard import SourceTensor, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Checkpoint:
    """A folder with config.json, tokenizer.json and safetensors files.

    ``tensors`` maps each tensor's name to its place. Raises CheckpointError naming the file or tensor when the folder
    is incomplete or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.exists():
            raise CheckpointError(f"{self.folder} does not exist")
        if not self.folder.is_dir():
            raise CheckpointError(f"{self.folder} is not a folder with a checkpoint")
        self.config = read_json(self.folder / "config.json")
        refuse_quantized(self.config, self.folder)  # before its packed tensors are
        self.tokenizer_config = read_json(self.folder / "tokenizer_config.json", required=False)
        self.generation_config = read_json(self.folder / "generation_config.json", required=False)
        self.tensors = _read_tensors(self.folder)


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
