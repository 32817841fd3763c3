"""Rows of one ggml type to rows of another, by the native library: widened, rounded or quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf import quantize
from commandr_gguf.devices import default_n_threads
from commandr_gguf.errors import CommandRError
from convert.errors import ConvertError

__all__ = ["convert_rows", "default_n_threads", "to_floats"]


def convert_rows(
    source_type: str,
    rows: npt.NDArray[np.uint8],
    ggml_type: str,
    n_per_row: int,
    *,
    importance: npt.NDArray[np.float32] | None = None,
) -> tuple[npt.NDArray[np.uint8], int]:
    """Rows [n_rows, row size of source_type] as ``ggml_type``, and how many of their values are NaN or infinite.

    ``importance``: [n_per_row] weights of the columns. What is no number stays so in F32, F16 and BF16 and becomes 0 in
    blocks. It is done on the calling thread. Raises ConvertError for a value beyond what ``ggml_type`` holds.
    """
    try:
        return quantize.convert_rows(source_type, rows, ggml_type, n_per_row, imatrix=importance, n_threads=1)
    except CommandRError as error:
        raise ConvertError(f"cannot be converted to {ggml_type}: {error}") from error


def to_floats(ggml_type: str, rows: npt.NDArray[np.uint8], n_per_row: int) -> npt.NDArray[np.float32]:
    """The float32 rows [n_rows, n_per_row] that rows [n_rows, row size] stand for."""
    floats: npt.NDArray[Any] = convert_rows(ggml_type, rows, "F32", n_per_row)[0]
    return floats.view(np.float32)
