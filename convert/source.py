"""A model to convert, whatever it was read from: its tensors by their GGUF names, and its keys."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from convert.metadata import Keys
from convert.shard import SourceTensor


class Delta(Protocol):
    """What is added to a tensor, row by row."""

    def rows(self, first: int, n: int) -> npt.NDArray[np.float32]:
        """Rows first.. of it: [n, n_per_row]."""


@dataclass(frozen=True)
class ModelTensor:
    """``name`` in the GGUF file, where its values lie, and what is added to them."""

    name: str
    source: SourceTensor
    delta: Delta | None = None


@dataclass(frozen=True)
class SourceModel:
    """``tensors`` in the order of writing.

    ``keys`` are those of the file but general.file_type, general.quantization_version and what is said of the
    conversion itself; ``notes`` tell what was left out and why; ``files`` are what it is read from and are never
    overwritten; ``origin`` is what is known of where it came from: "source", "repository", "revision", "lora" and, of
    a GGUF file, what it says of its own making: "input.source" and so on.
    """

    name: str
    architecture: str
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ctx_train: int
    tensors: list[ModelTensor]
    keys: Keys
    notes: list[str] = dataclasses.field(default_factory=list)
    files: list[Path] = dataclasses.field(default_factory=list)
    origin: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def n_params(self) -> int:
        """Weights, the embedding counted once."""
        return sum(tensor.source.n_elements for tensor in self.tensors)
