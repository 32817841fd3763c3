"""What rounding one tensor alone does to a model's predictions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import ArgumentError, UnsupportedError
from commandr_gguf.gguf_file import TensorInfo
from commandr_gguf.model import Model
from commandr_gguf.quality.base_file import BaseReader, write_base
from commandr_gguf.quality.chunks import Chunks
from commandr_gguf.quality.evaluate import open_session
from commandr_gguf.quality.scores import score
from commandr_gguf.quality.tensor_error import TensorError
from commandr_gguf.quality.tensor_rows import TensorRows, row_blocks
from commandr_gguf.quantize import block_size, dequantize_rows, needs_imatrix, quantize_rows, row_size

SMALL_BLOCK_TYPE = "Q4_0"
"""For rows that are no whole number of the wanted type's blocks."""


@dataclass(frozen=True)
class Probe:
    """A tensor and the type that it is rounded to."""

    tensor: TensorInfo
    type: str


@dataclass(frozen=True)
class Sensitivity:
    """What a probe did."""

    type: str
    """The type that the tensor was rounded to."""
    relative_error: float
    """The squared one: sum of the squared changes of the weights by the sum of their squares."""
    kl: float
    """Mean KL(unmodified || probed) in nats per token, see `Divergence.excess`."""


def plan_probes(tensors: Collection[TensorInfo], ggml_type: str) -> list[Probe]:
    """The matrices that are worth a probe, in file order: norms are never quantized.

    Raises:
        ArgumentError: the type cannot be used without an importance matrix, or is not a quantized one.
        UnsupportedError: a tensor is stored in no more bits than the type has, so that little can be measured.
    """
    if block_size(ggml_type) == 1:
        raise ArgumentError(
            f"--type {ggml_type} is not a quantized type: there is no rounding to measure; choose one such as Q4_K"
        )
    if needs_imatrix(ggml_type):
        raise ArgumentError(f"--type {ggml_type} needs an importance matrix; choose a type of more bits, such as Q3_K")
    probes = []
    for tensor in tensors:
        rounded = ggml_type if tensor.shape[0] % block_size(ggml_type) == 0 else SMALL_BLOCK_TYPE
        if len(tensor.shape) != 2 or tensor.name.endswith("_norm.weight") or tensor.shape[0] % block_size(rounded):
            continue
        if row_size(tensor.type, tensor.shape[0]) <= row_size(rounded, tensor.shape[0]):
            raise UnsupportedError(
                f"{tensor.name} is stored in {tensor.type}: what {rounded} does to it is to be measured "
                "with a file of more bits, such as BF16"
            )
        probes.append(Probe(tensor, rounded))
    return probes


def measure(
    model: Model,
    chunks: Chunks,
    probes: Collection[Probe],
    *,
    n_threads: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Iterator[tuple[str, Sensitivity]]:
    """Round one tensor after the other and compare with the model as it was; gives names and results as they come.

    The unmodified model's log-probabilities lie in a temporary file of `base_file.base_bytes`. The bytes of one tensor
    are in memory beside the model, in its own type.

    Args:
        model: loaded with use_mmap=False and repack=False, see `Model.set_tensor`; it is left as it was at the end.
        chunks: of the text.
        probes: from `plan_probes`.
        n_threads: 0 = the physical cores that this process may use.
        progress: called with the chunks evaluated, len(chunks) * (1 + len(probes)) in the end.
    """
    rows = TensorRows(model.gguf)
    n_done = 0

    def advance(*_: object) -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done)

    with TemporaryDirectory(prefix="commandr-") as folder, open_session(model, chunks, n_threads=n_threads) as session:
        path = Path(folder) / "unmodified"
        with write_base(path, chunks, model.hparams.n_vocab) as save:
            score(session, chunks, save=save, progress=advance)
        with BaseReader(path) as base:
            for probe in probes:
                data, error = _round(rows, probe, n_threads)
                model.set_tensor(probe.tensor.name, data)
                del data
                scores = score(session, chunks, base=base, progress=advance)
                model.set_tensor(probe.tensor.name, rows.raw(probe.tensor))
                yield probe.tensor.name, Sensitivity(probe.type, error.relative, max(scores.small_kl, 0.0))


def _round(rows: TensorRows, probe: Probe, n_threads: int) -> tuple[npt.NDArray[np.uint8], TensorError]:
    """The bytes of a probed tensor in its own type, [n_rows, row_bytes], and its error as it will be computed with."""
    tensor, n_per_row = probe.tensor, probe.tensor.shape[0]
    data = np.empty_like(rows.raw(tensor))
    total = TensorError()
    for block in row_blocks(tensor):
        floats = rows.floats(tensor, block)
        rounded = dequantize_rows(
            probe.type, quantize_rows(probe.type, floats, n_threads=n_threads), n_per_row, n_threads=n_threads
        )
        data[block] = quantize_rows(tensor.type, rounded, n_threads=n_threads)
        total += TensorError.of(floats, dequantize_rows(tensor.type, data[block], n_per_row, n_threads=n_threads))
    return data, total
