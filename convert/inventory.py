"""Which tensor of a checkpoint goes where: every expected one found with its shape, every other one accounted for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convert.checkpoint import Checkpoint
from convert.errors import CheckpointError, UnsupportedError
from convert.hparams import HParams
from convert.rows import FileRows
from convert.shard import SourceTensor
from convert.tensor_names import EMBEDDING, HEAD, is_bias, is_ignored, is_qk_norm, tensor_names


@dataclass(frozen=True)
class Inventory:
    """``tensors``: GGUF names with their source, in the order of writing. ``notes``: what was left out and why."""

    tensors: list[tuple[str, SourceTensor]]
    notes: list[str]


def take_inventory(checkpoint: Checkpoint, hparams: HParams) -> Inventory:
    """Match a checkpoint's tensors with those that its config calls for.

    Biases that are all zero and a head that equals the embedding are left out with a note. Raises CheckpointError for
    a tensor that is missing or of the wrong shape, UnsupportedError for one that the model has no place for.
    """
    found = dict(checkpoint.tensors)
    tensors = []
    for name in tensor_names(hparams, qk_norm=_has_qk_norm(hparams, found)):
        source = found.pop(name.hf, None)
        if source is None:
            raise CheckpointError(f"{checkpoint.folder}: tensor {name.hf} is missing")
        if source.shape != name.shape:
            raise CheckpointError(
                f"{source.path}: tensor {name.hf} has the shape {list(source.shape)}, config.json calls for "
                f"{list(name.shape)}"
            )
        tensors.append((name.gguf, source))
    with FileRows() as rows:
        return Inventory(tensors, _account_for(checkpoint, found, rows))


def _has_qk_norm(hparams: HParams, found: dict[str, SourceTensor]) -> bool:
    """Their presence decides; the config must not contradict it."""
    norm = next((tensor for name, tensor in found.items() if is_qk_norm(name)), None)
    if norm is not None and hparams.architecture == "cohere2":
        raise UnsupportedError(f"{norm.path}: tensor {norm.name} has no place in a cohere2 model")
    if norm is not None and hparams.use_qk_norm is False:
        raise CheckpointError(f"{norm.path}: tensor {norm.name} contradicts use_qk_norm = false in config.json")
    # When the config promises norms that are not there, the first of them is reported as missing.
    return norm is not None or (hparams.use_qk_norm is True and hparams.architecture == "command-r")


def _account_for(checkpoint: Checkpoint, surplus: dict[str, SourceTensor], rows: FileRows) -> list[str]:
    zero_biases = 0
    notes = []
    for name, tensor in surplus.items():
        if is_ignored(name):
            continue
        if is_bias(name):
            if not _is_zero(rows, tensor):
                raise UnsupportedError(f"{tensor.path}: bias {name} is not zero, and Command-R models have no biases")
            zero_biases += 1
        elif name == HEAD:
            if not _are_equal(rows, tensor, checkpoint.tensors[EMBEDDING]):
                raise UnsupportedError(
                    f"{tensor.path}: {HEAD} differs from {EMBEDDING}, and Command-R models have one matrix for both"
                )
            notes.append(f"left out {HEAD}, which equals {EMBEDDING}")
        else:
            raise UnsupportedError(f"{tensor.path}: tensor {name} has no place in this model")
    if zero_biases:
        notes.append(f"left out {zero_biases} biases, all zero")
    return notes


def _is_zero(rows: FileRows, tensor: SourceTensor) -> bool:
    return not any(np.any(block) for block in rows.float_blocks(tensor))


def _are_equal(rows: FileRows, one: SourceTensor, other: SourceTensor) -> bool:
    if one.shape != other.shape:
        return False
    pairs = zip(rows.float_blocks(one), rows.float_blocks(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)
