"""From what a user asks for, a type, own choices of types or a size, to the plan of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.errors import ArgumentError
from convert.imatrix import ImportanceMatrix
from convert.layout import lay_out
from convert.plan import Plan, make_plan
from convert.quantize import default_n_threads
from convert.recipe import FileType, guessed_file_type
from convert.rows import FileRows
from convert.sensitivity import Sensitivity
from convert.source import SourceModel
from convert.target import ChosenTypes, Measured, check_target, measure


@dataclass(frozen=True)
class Target:
    """A size to reach but not to pass; one of the two is given.

    ``n_bytes``: of the whole file, or of all files together. ``bits_per_weight``: of the tensor data alone.
    """

    n_bytes: int | None = None
    bits_per_weight: float | None = None

    def __post_init__(self) -> None:
        if (self.n_bytes is None) == (self.bits_per_weight is None):
            raise ArgumentError("a target is either a size or a number of bits per weight")
        if self.bits_per_weight is not None and not 0 < self.bits_per_weight <= 32:
            raise ArgumentError(f"{self.bits_per_weight} bits per weight are not between 0 and 32")


def shapes_of(model: SourceModel) -> dict[str, tuple[int, ...]]:
    """Of all tensors by name, rows first."""
    return {tensor.name: tensor.source.shape for tensor in model.tensors}


def plan_for_target(
    model: SourceModel,
    target: Target,
    *,
    fixed: Mapping[str, str] | None = None,
    imatrix: ImportanceMatrix | None = None,
    sensitivity: Sensitivity | None = None,
    split_max_bytes: int | None = None,
    n_threads: int = 0,
    progress: Callable[[str], None] | None = None,
    choices: Mapping[str, str] | None = None,
) -> Plan:
    """Choose the types that lose least within a target.

    Its file type is named after its bits per weight, and has the number that llama.cpp gives to a file that has none.

    Args:
        model: what is converted.
        target: the size.
        fixed: types that are not for choice.
        imatrix: weighs what rounding loses, in the choice and in the file.
        sensitivity: how much each tensor counts; None for a rule of thumb.
        split_max_bytes: the largest size of a file, when there are to be several.
        n_threads: 0 = the physical cores that this process may use.
        progress: called with each tensor's name when it has been looked at.
        choices: where ``fixed`` is from, for the file's keys.

    Raises:
        ArgumentError: the target is too small, or ``imatrix`` or ``sensitivity`` is of another model.
    """
    sources = {tensor.name: tensor for tensor in model.tensors}
    by_weight = target.bits_per_weight is not None
    n_bytes = int((target.bits_per_weight or 0) * model.n_params / 8) if by_weight else target.n_bytes or 0
    check_target(shapes_of(model), n_bytes, fixed=fixed or {}, imatrix=imatrix)
    with FileRows() as rows:

        def read_rows(name: str, first: int, n: int) -> npt.NDArray[np.float32]:
            tensor = sources[name]
            floats = rows.floats(tensor.source, first, n)
            return floats if tensor.delta is None else floats + tensor.delta.rows(first, n)

        measured = measure(
            shapes_of(model),
            read_rows,
            fixed=fixed,
            imatrix=imatrix,
            sensitivity=sensitivity,
            n_threads=n_threads or default_n_threads(),
            progress=progress,
        )
    told = {
        **(choices or {}),
        "target": f"{target.bits_per_weight} bits per weight" if by_weight else f"{n_bytes} bytes",
    }
    if sensitivity is not None:
        told["sensitivity.sha256"] = sensitivity.sha256

    def plan_of(n_bytes: int) -> Plan:
        return _plan(model, measured, measured.choose(n_bytes), imatrix, told)

    return plan_of(n_bytes) if by_weight else _fit(plan_of, n_bytes, split_max_bytes)


def _fit(plan_of: Callable[[int], Plan], n_bytes: int, split_max_bytes: int | None) -> Plan:
    """The plan whose files have at most ``n_bytes``: how long their headers are is known when it is made."""
    left = n_bytes
    while True:
        plan = plan_of(left)
        size = sum(file.size for file in lay_out(plan, Path("x.gguf"), max_bytes=split_max_bytes))
        if size <= n_bytes:
            return plan
        left -= size - n_bytes


def _plan(
    model: SourceModel,
    measured: Measured,
    chosen: ChosenTypes,
    imatrix: ImportanceMatrix | None,
    choices: Mapping[str, str],
) -> Plan:
    guessed = guessed_file_type(chosen.types.values())
    name = f"{8 * chosen.n_bytes / model.n_params:.2f}bpw"
    file_type = FileType(name, guessed.number, guessed.base)
    plan = make_plan(model, file_type, types=chosen.types, imatrix=imatrix, choices=choices)
    if measured.is_kl:
        plan.notes.append(f"predicted KL divergence from the unrounded model: {chosen.loss:.3g} nats per token")
    else:
        plan.notes.append("how much each tensor counts is a rule of thumb: measure it and give --sensitivity")
    if chosen.is_largest:
        plan.notes.append("the target is above the largest types of choice, Q8_0: --type BF16 or F16 would lose less")
    return plan
