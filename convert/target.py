"""The type of each tensor for a file of a given size, so that the model's predictions change as little as possible.

The change is predicted as the sum over tensors of sensitivity times relative error: the KL divergence from the
unrounded model grows with the noise in a tensor's product, and small noises of different tensors add up. The relative
error of each possible type is measured on rows of the tensor itself (rounding.py). The sensitivity is measured, too,
when there is a file of it (sensitivity.py); then the prediction is in nats per token. Without one it is 1 for each
weight of a layer, and for the embedding, which is also the head, four times the number of layers: the head's noise
reaches the logits undiluted, where a layer's product is one of many contributions to the residual stream. (Measured on
the embedded model of five layers: five times. llama.cpp's two bits more for the head of a 35B model mean four times.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import gguf
import numpy as np
import numpy.typing as npt

from convert.allocation import Option, allocate, smallest
from convert.errors import ArgumentError, ConvertError
from convert.ggml_types import block_size, row_size
from convert.imatrix import ImportanceMatrix
from convert.recipe import is_norm, needs_imatrix
from convert.rounding import relative_error, sample_rows
from convert.sensitivity import Sensitivity
from convert.sizes import format_size

ReadRows = Callable[[str, int, int], npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]

# The largest comes first: it is the most that a target can ask for.
_TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q2_K", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS")
_TYPES_OF_SMALL_BLOCKS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")

_HEAD_PER_LAYER = 4.0


@dataclass(frozen=True)
class ChosenTypes:
    """``types``: of all tensors by name. ``n_bytes``: of their data and its padding. ``loss``: as predicted."""

    types: dict[str, str]
    n_bytes: int
    loss: float
    is_largest: bool


@dataclass(frozen=True)
class Measured:
    """What each tensor may be stored as, at what cost: types for any size can be chosen from it.

    ``fixed``: types that are not for choice. ``options``: for each other tensor its types with size and cost.
    ``is_kl``: whether costs are in nats per token.
    """

    shapes: Shapes
    fixed: Mapping[str, str]
    options: Mapping[str, Mapping[str, Option]]
    is_kl: bool

    def choose(self, n_bytes: int) -> ChosenTypes:
        """The types for at most ``n_bytes`` of tensor data. Raises ArgumentError when no types are small enough."""
        items = [list(options.values()) for options in self.options.values()]
        left = n_bytes - sum(_stored(ggml_type, self.shapes[name]) for name, ggml_type in self.fixed.items())
        _check_size(n_bytes, n_bytes - left + smallest(items))
        chosen = allocate(items, left)
        own = {name: list(options)[i] for (name, options), i in zip(self.options.items(), chosen, strict=True)}
        types = {name: own.get(name) or self.fixed[name] for name in self.shapes}
        return ChosenTypes(
            types,
            sum(_stored(types[name], shape) for name, shape in self.shapes.items()),
            sum(options[i].cost for options, i in zip(items, chosen, strict=True)),
            is_largest=bool(own) and not any(chosen),
        )


def check_target(
    shapes: Shapes, n_bytes: int, *, fixed: Mapping[str, str], imatrix: ImportanceMatrix | None = None
) -> None:
    """Raises ArgumentError when no types bring the data of the tensors down to ``n_bytes``; measures nothing."""
    known = _not_for_choice(shapes, fixed)
    at_least = sum(
        min(_stored(t, shape) for t in ([known[name]] if name in known else _candidates(name, shape[-1], imatrix)))
        for name, shape in shapes.items()
    )
    _check_size(n_bytes, at_least)


def measure(
    shapes: Shapes,
    read_rows: ReadRows,
    *,
    fixed: Mapping[str, str] | None = None,
    imatrix: ImportanceMatrix | None = None,
    sensitivity: Sensitivity | None = None,
    n_threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Measured:
    """Measure what rounding does to each tensor but norms and those of ``fixed``.

    Args:
        shapes: of all tensors by name, rows first.
        read_rows: (name, first row, rows) to float32 [rows, n_per_row]; called on several threads.
        fixed: types that are not for choice.
        imatrix: weighs the errors; types of less than 4 bits, but for Q3_K and Q2_K, are used only with it.
        sensitivity: an entry for each tensor that is for choice; None for the rule at the top of this file.
        n_threads: tensors that are measured at a time.
        progress: called with each tensor's name when it is done, on the calling thread.

    Raises:
        ArgumentError: ``sensitivity`` or ``imatrix`` is of another model.
    """
    known = _not_for_choice(shapes, fixed or {})
    names = [name for name in shapes if name not in known]
    scales = _scales(shapes, names, sensitivity)

    def options_of(name: str) -> dict[str, Option]:
        errors = _errors(name, shapes[name], read_rows, imatrix, sensitivity)
        return {t: Option(_stored(t, shapes[name]), scales[name] * error) for t, error in errors.items()}

    options: dict[str, dict[str, Option]] = {}
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for name, of_tensor in zip(names, pool.map(options_of, names), strict=True):
                options[name] = of_tensor
                if progress is not None:
                    progress(name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Measured(shapes, known, options, sensitivity is not None)


def _errors(
    name: str,
    shape: tuple[int, ...],
    read_rows: ReadRows,
    imatrix: ImportanceMatrix | None,
    sensitivity: Sensitivity | None,
) -> dict[str, float]:
    """The relative error of each type that the tensor may have, in units of that of the sensitivity's probe, if any."""
    n_per_row = shape[-1]
    weights = imatrix.columns(name, n_per_row) if imatrix is not None else None
    rows = np.concatenate([read_rows(name, *place) for place in sample_rows(math.prod(shape[:-1]), n_per_row)])
    np.nan_to_num(rows, copy=False, nan=0, posinf=0, neginf=0)  # the conversion itself says what becomes of them
    unit = 1.0
    try:
        if sensitivity is not None:
            # Measured here once more, so that the choice of rows and the columns' weights count on both sides.
            probe = sensitivity.probes[name].ggml_type
            unit = relative_error(probe, rows, weights, round_with_weights=False) or 1.0
        types = _candidates(name, n_per_row, imatrix)
        return {ggml_type: relative_error(ggml_type, rows, weights) / unit for ggml_type in types}
    except ConvertError as error:
        raise ConvertError(f"tensor {name} {error}") from error


def _not_for_choice(shapes: Shapes, fixed: Mapping[str, str]) -> dict[str, str]:
    return {name: "F32" for name, shape in shapes.items() if is_norm(name, shape)} | dict(fixed)


def _check_size(n_bytes: int, at_least: int) -> None:
    if n_bytes < at_least:
        raise ArgumentError(
            f"the tensors take at least {at_least} bytes, and the target leaves {n_bytes} for them: it must be above "
            f"{format_size(at_least)}"
        )


def _candidates(name: str, n_per_row: int, imatrix: ImportanceMatrix | None) -> list[str]:
    has_weights = imatrix is not None and imatrix.columns(name, n_per_row) is not None
    types = _TYPES if n_per_row % 256 == 0 else _TYPES_OF_SMALL_BLOCKS
    fitting = [t for t in types if n_per_row % block_size(t) == 0 and (has_weights or not needs_imatrix(t))]
    return fitting or ["F16"]


def _scales(shapes: Shapes, names: Sequence[str], sensitivity: Sensitivity | None) -> dict[str, float]:
    """What a tensor's error is multiplied with."""
    if sensitivity is None:
        n_layer = len({name.split(".")[1] for name in shapes if name.startswith("blk.")})
        return {name: _HEAD_PER_LAYER * n_layer if name == "token_embd.weight" else 1.0 for name in names}
    for name, probe in sensitivity.probes.items():
        if name not in shapes or shapes[name][-1] % block_size(probe.ggml_type):
            raise ArgumentError(f"{sensitivity.path} is of another model: this one has no such tensor as its {name}")
    for name in names:
        if name not in sensitivity.probes:
            raise ArgumentError(f"{sensitivity.path} has no entry for {name}: measure all tensors")
    return {name: sensitivity.probes[name].kl for name in names}


def _stored(ggml_type: str, shape: tuple[int, ...]) -> int:
    """Bytes in a file, with the padding behind."""
    n_bytes = math.prod(shape[:-1]) * row_size(ggml_type, shape[-1])
    return -(-n_bytes // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT
