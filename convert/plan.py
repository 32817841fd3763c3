"""What a file will hold: every tensor with its type, and the keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt

from convert.ggml_types import row_size
from convert.imatrix import ImportanceMatrix, column_weights
from convert.metadata import Keys, Value
from convert.provenance import provenance_keys
from convert.recipe import FileType, ModelShape, check_imatrix, tensor_type
from convert.shard import SourceTensor
from convert.source import Delta, SourceModel


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor of the file: its name there, where it comes from and its ggml type there.

    ``importance``: [n_per_row] weights of the columns; ``delta``: what is added to the values.
    """

    name: str
    source: SourceTensor
    ggml_type: str
    importance: npt.NDArray[np.float32] | None = None
    delta: Delta | None = None

    @property
    def row_bytes(self) -> int:
        """Of a row in the file."""
        return row_size(self.ggml_type, self.source.n_per_row)

    @property
    def n_bytes(self) -> int:
        """In the file, without padding."""
        return self.source.n_rows * self.row_bytes


@dataclass(frozen=True)
class Plan:
    """What a file will hold, and the model it is made from. ``notes``: what one should know of the choice of types."""

    model: SourceModel
    file_type: FileType
    keys: Keys
    tensors: list[PlannedTensor]
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def n_bytes(self) -> int:
        """Bytes of tensor data."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Of the tensor data."""
        return 8 * self.n_bytes / self.model.n_params


def make_plan(
    model: SourceModel,
    file_type: FileType,
    *,
    types: Mapping[str, str] | None = None,
    imatrix: ImportanceMatrix | None = None,
    choices: Mapping[str, str] | None = None,
) -> Plan:
    """Choose the type of each tensor: that of ``types``, or else the file type's.

    ``imatrix`` weighs the rounding of the tensors that it has an entry for; ``choices`` tell, under names for the
    file's keys, where ``types`` are from. Raises ArgumentError when a type needs an importance matrix.
    """
    chosen = types or {}
    if any(tensor.name not in chosen for tensor in model.tensors):
        check_imatrix(file_type, has_imatrix=imatrix is not None)
    shape = ModelShape(model.n_layer, model.n_head // model.n_head_kv)
    plain = [
        PlannedTensor(
            tensor.name,
            tensor.source,
            chosen.get(tensor.name)
            or tensor_type(file_type, shape, tensor.name, tensor.source.shape, has_imatrix=imatrix is not None),
            delta=tensor.delta,
        )
        for tensor in model.tensors
    ]
    weights, notes = column_weights(
        imatrix, ((t.name, t.ggml_type, t.source.n_per_row) for t in plain), recipe=file_type.name
    )
    tensors = [dataclasses.replace(tensor, importance=weights.get(tensor.name)) for tensor in plain]
    keys = _with_file_keys(model.keys, file_type) | provenance_keys(
        model.origin | dict(choices or {}), file_type.name, types, imatrix
    )
    return Plan(model, file_type, keys, tensors, notes)


def _with_file_keys(keys: Keys, file_type: FileType) -> Keys:
    """Those of the model with those of this file behind the last general one."""
    of_file = {
        "general.file_type": Value(file_type.number, gguf.GGUFValueType.UINT32),
        "general.quantization_version": Value(gguf.GGML_QUANT_VERSION, gguf.GGUFValueType.UINT32),
    }
    general = {name: value for name, value in keys.items() if name.startswith("general.")}
    return general | of_file | {name: value for name, value in keys.items() if name not in general}
