"""Importance matrices: how much each column of a weight matters, from activations seen on a text.

A column's weight is the mean square of its inputs. Where nothing was counted all columns weigh 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import CommandRError
from commandr_gguf.imatrix import ColumnSums
from commandr_gguf.imatrix import ImportanceMatrix as SumsOfSquares
from convert.errors import ArgumentError
from convert.recipe import HOW_TO_MAKE_IMATRIX, needs_imatrix

Weights = npt.NDArray[np.float32]

# The embedding is also the head, whose activations count; llama.cpp collects none for it.
_OTHER_NAME = {"token_embd.weight": "output.weight"}
_UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class ImportanceMatrix:
    """``entries``: weights of columns by tensor name; ``datasets``, ``n_chunks``: what they were collected on."""

    path: Path
    entries: Mapping[str, Weights]
    datasets: tuple[str, ...]
    n_chunks: int
    sha256: str

    def columns(self, name: str, n_per_row: int) -> Weights | None:
        """[n_per_row] weights for the tensor called ``name`` in the GGUF file; None when it has no entry.

        Raises ArgumentError when the entry is of another length.
        """
        found = self.entries.get(name)
        if found is None:
            found = self.entries.get(_OTHER_NAME.get(name, ""))
        if found is not None and found.size != n_per_row:
            raise ArgumentError(
                f"{self.path} has {found.size} columns for {name}, whose rows have {n_per_row}: it was made for "
                f"another model"
            )
        return found


def column_weights(
    imatrix: ImportanceMatrix | None, tensors: Iterable[tuple[str, str, int]], *, recipe: str = ""
) -> tuple[dict[str, Weights], list[str]]:
    """The weights for each tensor (name, ggml type, n_per_row) that has some, and notes on those that have none.

    ``recipe``: the name of the file type. Raises ArgumentError naming a tensor whose type needs weights it has not.
    """
    tensors = list(tensors)
    weights: dict[str, Weights] = {}
    missing: list[str] = []
    foreign = sorted((imatrix.entries.keys() if imatrix else set()) - {*_OTHER_NAME.values(), *(t[0] for t in tensors)})
    if imatrix is not None and foreign:
        raise ArgumentError(
            f"{imatrix.path} has an entry for {foreign[0]}, which this model lacks: it is of another one"
        )
    for name, ggml_type, n_per_row in tensors:
        if ggml_type in _UNQUANTIZED:
            continue
        found = None if imatrix is None else imatrix.columns(name, n_per_row)
        if found is not None:
            weights[name] = found
        elif needs_imatrix(ggml_type, recipe):
            why = HOW_TO_MAKE_IMATRIX if imatrix is None else f"{imatrix.path} has no entry for it"
            raise ArgumentError(f"tensor {name} cannot be {ggml_type} without an importance matrix: {why}")
        else:
            missing.append(name)
    if imatrix is None or not missing:
        return weights, []
    others = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
    return weights, [f"{imatrix.path} has no entry for {', '.join(missing[:3])}{others}: rounded without weights"]


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read a file. Raises ArgumentError naming it and, where one is at fault, the tensor."""
    try:
        found = SumsOfSquares.read(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except CommandRError as error:
        raise ArgumentError(str(error)) from error
    except OSError as error:
        raise ArgumentError(f"cannot read {path}: {error.strerror}") from error
    entries = {name: _mean_squares(path, name, entry) for name, entry in found.entries.items()}
    return ImportanceMatrix(path, entries, found.datasets, found.n_chunks, sha256)


def _mean_squares(path: Path, name: str, entry: ColumnSums) -> Weights:
    """In float32 and from a float32 count, as llama.cpp computes them."""
    if entry.n_tokens == 0:
        return np.ones(entry.sums.shape, np.float32)
    if not entry.sums.any():  # all of the tensor would be rounded to 0
        raise ArgumentError(f"{path}: the entry of {name} is 0 in every column")
    means: Weights = entry.sums.astype(np.float32) / np.float32(entry.n_tokens)
    return means
