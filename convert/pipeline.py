"""The story of a conversion: read the configs, match the tensors, choose their types, write them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from convert.checkpoint import Checkpoint
from convert.errors import ArgumentError
from convert.hparams import HParams, read_hparams
from convert.inventory import take_inventory
from convert.metadata import Keys, general_keys, model_keys, tokenizer_keys
from convert.quantize import converted_rows
from convert.recipe import FileType, ModelShape, tensor_type
from convert.templates import read_chat_templates
from convert.vocab import read_vocab
from convert.writer import PlannedTensor, Progress, write_gguf


@dataclass(frozen=True)
class Plan:
    """What a file will hold. ``notes``: what of the checkpoint was left out and why."""

    hparams: HParams
    file_type: FileType
    keys: Keys
    tensors: list[PlannedTensor]
    notes: list[str]

    @property
    def n_params(self) -> int:
        """Weights, the embedding counted once."""
        return sum(tensor.source.n_elements for tensor in self.tensors)

    @property
    def n_bytes(self) -> int:
        """Bytes of tensor data."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Of the tensor data."""
        return 8 * self.n_bytes / self.n_params


def make_plan(checkpoint: Checkpoint, file_type: FileType, *, context_length: int | None = None) -> Plan:
    """Read and check everything but the weights' values. ``context_length`` overrides what the checkpoint says."""
    hparams = read_hparams(checkpoint.config, checkpoint.tokenizer_config, context_length=context_length)
    inventory = take_inventory(checkpoint, hparams)
    shape = ModelShape(hparams.n_layer, hparams.n_head // hparams.n_head_kv)
    tensors = [
        PlannedTensor(name, source, tensor_type(file_type, shape, name, source.shape))
        for name, source in inventory.tensors
    ]
    folder, n_params = checkpoint.folder, sum(source.n_elements for _, source in inventory.tensors)
    vocab = read_vocab(folder, checkpoint.config, checkpoint.tokenizer_config, hparams.n_vocab)
    templates = read_chat_templates(folder, checkpoint.tokenizer_config)
    name, repository = checkpoint_name(folder)
    keys = (
        general_keys(hparams.architecture, folder, name, repository, n_params, file_type.number)
        | model_keys(hparams)
        | tokenizer_keys(vocab, templates)
    )
    return Plan(hparams, file_type, keys, tensors, inventory.notes)


def write_plan(
    checkpoint: Checkpoint,
    plan: Plan,
    output: Path,
    *,
    n_threads: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Carry a plan out.

    n_threads: 0 = the physical cores that this process may use. overwrite: whether an existing file may be replaced;
    a file of the checkpoint never is. Raises OutputError when writing fails; the output is then as it was before.
    """
    check_output(checkpoint, output, overwrite=overwrite)

    def rows(tensor: PlannedTensor) -> Iterator[npt.NDArray[Any]]:
        return converted_rows(checkpoint, tensor.source, tensor.ggml_type, n_threads=n_threads)

    write_gguf(output, plan.keys, plan.tensors, rows, progress)


def check_output(checkpoint: Checkpoint, output: Path, *, overwrite: bool) -> None:
    """Raises ArgumentError when ``output`` cannot be a new file or may not be replaced."""
    if output.is_dir():
        raise ArgumentError(f"{output} is a folder")
    if not output.parent.is_dir():
        raise ArgumentError(f"{output.parent} is not a folder: make it first")
    if not output.exists():
        return
    if not output.is_file():
        raise ArgumentError(f"{output} is not a regular file and is not replaced")
    if any(path.is_file() and path.samefile(output) for path in checkpoint.folder.rglob("*")):
        raise ArgumentError(f"{output} is a file of the checkpoint itself and is not replaced")
    if not overwrite:
        raise ArgumentError(f"{output} exists: give --force to replace it")


def checkpoint_name(folder: Path) -> tuple[str, str | None]:
    """What a checkpoint is called, and the repository ("organization/name") that it was downloaded from, if known.

    The cache of huggingface_hub keeps a repository in models--ORGANIZATION--NAME/snapshots/COMMIT.
    """
    folder = folder.resolve()
    root = folder.parent.parent.name
    if folder.parent.name == "snapshots" and root.startswith("models--"):
        parts = root.removeprefix("models--").split("--")
        return parts[-1], "/".join(parts)
    return folder.name or "model", None
