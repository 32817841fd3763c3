"""A tensor's rows in the type of the file: copied, rounded, or quantized by the native library on several threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import CommandRError
from commandr_gguf.quantize import quantize_rows
from convert.checkpoint import BLOCK_BYTES, Checkpoint
from convert.errors import CheckpointError, ConvertError, UnsupportedError
from convert.shard import SourceTensor


def converted_rows(
    checkpoint: Checkpoint,
    tensor: SourceTensor,
    ggml_type: str,
    *,
    n_threads: int = 0,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[npt.NDArray[Any]]:
    """The tensor as ``ggml_type``, in blocks of rows whose bytes are those of the file.

    n_threads: 0 = the physical cores that this process may use. block_bytes: of float32 that are in memory at a time,
    unless one row is larger. Each block is valid until the next one is asked for. Raises CheckpointError for a NaN or
    an infinity, UnsupportedError for a value too large for F16; both name the tensor.
    """
    if tensor.dtype == ggml_type:
        for raw in checkpoint.raw_rows(tensor, block_bytes):
            _check_finite(tensor, raw)
            yield raw
        return
    for rows in checkpoint.float_rows(tensor, block_bytes):
        _check_finite(tensor, rows)
        if ggml_type == "F32":
            yield rows
        elif ggml_type == "F16":
            yield _to_f16(tensor, rows)
        elif ggml_type == "BF16":
            yield _to_bf16(rows)
        else:
            try:
                yield quantize_rows(ggml_type, rows, n_threads=n_threads)
            except CommandRError as error:
                raise ConvertError(f"cannot quantize tensor {tensor.name} to {ggml_type}: {error}") from error


def _check_finite(tensor: SourceTensor, rows: npt.NDArray[Any]) -> None:
    # A block of BF16 bits: an exponent of ones is an infinity or a NaN.
    finite = (rows & 0x7F80) != 0x7F80 if rows.dtype == np.uint16 else np.isfinite(rows)
    if not finite.all():
        raise CheckpointError(f"{tensor.path}: tensor {tensor.name} holds a NaN or an infinity")


def _to_f16(tensor: SourceTensor, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        out = rows.astype("<f2")
    if not np.isfinite(out).all():
        raise UnsupportedError(
            f"{tensor.path}: tensor {tensor.name} holds a value beyond 65504, the largest of F16: choose BF16 or F32"
        )
    return out


def _to_bf16(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even; ``rows`` are finite and are overwritten."""
    bits = rows.view(np.uint32)
    bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)
    bits >>= 16
    return bits.astype("<u2")
