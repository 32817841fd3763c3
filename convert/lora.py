"""PEFT LoRA adapters, merged while a model is converted: W + scale * B A on the matrices that they change.

The tensors of adapter_model.safetensors are called after the base model's modules:

    base_model.model.MODULE.lora_A.weight     [r, n_in]       base_model.model.MODULE.lora_B.weight     [n_out, r]
    base_model.model.MODULE.lora_embedding_A  [r, n_vocab]    base_model.model.MODULE.lora_embedding_B  [n_embd, r]
    base_model.model.MODULE.base_layer.weight                 a copy of a base matrix, written beside embedding adapters

Anything else in the file, or missing from it, is an error: nothing is left out in silence.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convert.adapter_config import AdapterConfig, read_adapter_config
from convert.errors import CheckpointError, UnsupportedError
from convert.low_rank import LowRank, floats, map_raw
from convert.rows import FileRows, row_blocks
from convert.shard import DTYPES, SourceTensor, read_header
from convert.source import ModelTensor, SourceModel
from convert.tensor_names import hf_name

WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_EMBEDDING, _HEAD = "model.embed_tokens", "lm_head"
_COPY = "base_layer.weight"


def merge_adapter(folder: Path, model: SourceModel) -> SourceModel:
    """The model with an adapter's changes on top of those it has already.

    Raises CheckpointError for an adapter that is incomplete, damaged or made for another model, UnsupportedError for
    one that does more than add scale * B A to matrices; both name the file and the key or tensor.
    """
    config = read_adapter_config(folder)
    path = folder / WEIGHTS
    if not path.exists():
        old = " (adapter_model.bin is not read: save the adapter again as safetensors)"
        raise CheckpointError(f"{path} is missing{old if (folder / 'adapter_model.bin').exists() else ''}")
    bases = {hf_name(tensor.name).removesuffix(".weight"): tensor for tensor in model.tensors}
    changes = _read_changes(config, path, bases)
    for module, tensor in bases.items():
        if config.is_targeted(module) and len(tensor.source.shape) == 2 and module not in changes:
            raise CheckpointError(f"{path} has no tensors for {module}, which {config.path.name} targets")

    tensors = []
    for module, tensor in bases.items():
        change = changes.get(module)
        if change is not None and isinstance(tensor.delta, LowRank):
            change = dataclasses.replace(change, below=tensor.delta)
        tensors.append(tensor if change is None else dataclasses.replace(tensor, delta=change))
    trained_on = f", trained on {config.base_model}" if config.base_model else ""
    name = folder.resolve().name
    described = f"{name} sha256:{_sha256(path)} {config.path.name} sha256:{_sha256(config.path)}"
    return dataclasses.replace(
        model,
        tensors=tensors,
        notes=[*model.notes, f"merged the adapter {name}{trained_on} into {len(changes)} tensors"],
        files=[*model.files, config.path, path],
        origin=model.origin | {"lora": ", ".join(filter(None, (model.origin.get("lora"), described)))},
    )


def _read_changes(config: AdapterConfig, path: Path, bases: Mapping[str, ModelTensor]) -> dict[str, LowRank]:
    """The changes by module, the head's checked against the embedding's and left out."""
    pairs: dict[str, dict[str, SourceTensor]] = {}
    for name, tensor in read_header(path).items():
        module, part = _split(path, name)
        if module not in bases and module != _HEAD:
            raise CheckpointError(f"{path}: tensor {name} belongs to no matrix of this model")
        if part == _COPY:
            _check_copy(path, tensor, bases[_EMBEDDING if module == _HEAD else module])
        else:
            pairs.setdefault(module, {})[part] = tensor
    if not pairs:
        raise CheckpointError(f"{path} holds no adapter's tensors")
    changes = {
        module: _change(config, module, parts, bases[_EMBEDDING if module == _HEAD else module])
        for module, parts in pairs.items()
    }
    head, embedding = changes.pop(_HEAD, None), changes.get(_EMBEDDING)
    if not _are_one(head, embedding):
        raise UnsupportedError(
            f"{path}: the adapter changes {_EMBEDDING if head is None else _HEAD} otherwise than "
            f"{_HEAD if head is None else _EMBEDDING}, and Command-R models have one matrix for both"
        )
    return changes


def _split(path: Path, name: str) -> tuple[str, str]:
    """A tensor's module in the base model, and which of its factors it is: "A", "B" or that of an embedding."""
    for suffix, part in (
        (".lora_A.weight", "A"),
        (".lora_B.weight", "B"),
        (".lora_embedding_A", "embedding_A"),
        (".lora_embedding_B", "embedding_B"),
        (f".{_COPY}", _COPY),
    ):
        if name.startswith(_PREFIX) and name.endswith(suffix):
            return name[len(_PREFIX) : -len(suffix)], part
    raise UnsupportedError(f"{path}: tensor {name} is neither factor of a LoRA matrix, so it cannot be merged")


def _change(config: AdapterConfig, module: str, parts: Mapping[str, SourceTensor], base: ModelTensor) -> LowRank:
    first = next(iter(parts.values()))
    prefix = "embedding_" if first.name.endswith(("_embedding_A", "_embedding_B")) else ""
    if set(parts) != {f"{prefix}A", f"{prefix}B"}:
        raise CheckpointError(f"{first.path}: tensor {first.name} lacks the other factor of its product")
    a, b = parts[f"{prefix}A"], parts[f"{prefix}B"]
    rank = config.rank_of(module)
    n_out, n_in = base.source.shape if len(base.source.shape) == 2 else (0, 0)
    # An embedding is looked up, not multiplied: its product stands the other way around.
    shapes = ((rank, n_out), (n_in, rank)) if prefix else ((rank, n_in), (n_out, rank))
    for tensor, shape in zip((a, b), shapes, strict=True):
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.path}: tensor {tensor.name} has the shape {list(tensor.shape)}, this model and "
                f"{config.path.name} call for {list(shape)}"
            )
        _check_finite(tensor)
    raw_a, raw_b = (map_raw(b).T, map_raw(a).T) if prefix else (map_raw(a), map_raw(b))
    return LowRank(raw_a, raw_b, config.scale_of(module))


def _check_finite(tensor: SourceTensor) -> None:
    raw = map_raw(tensor)
    bad = sum(int(np.sum(~np.isfinite(floats(raw[first : first + n])))) for first, n in row_blocks(tensor))
    if bad:
        raise CheckpointError(f"{tensor.path}: tensor {tensor.name} holds {bad} NaN or infinite values")


def _check_copy(path: Path, tensor: SourceTensor, base: ModelTensor) -> None:
    """Saved adapters of an embedding carry the base's embedding; one that was trained or resized cannot be merged."""
    source = base.source
    same = tensor.shape == source.shape and source.dtype in DTYPES
    with FileRows() as files:
        if not same or not all(
            np.array_equal(files.floats(tensor, *block), files.floats(source, *block)) for block in row_blocks(tensor)
        ):
            raise UnsupportedError(f"{path}: tensor {tensor.name} differs from {source.name} of the base model")


def _are_one(head: LowRank | None, embedding: LowRank | None) -> bool:
    if head is None or embedding is None:
        return head is embedding
    return (
        head.scale == embedding.scale
        and np.array_equal(floats(head.a), floats(embedding.a))
        and np.array_equal(floats(head.b), floats(embedding.b))
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
