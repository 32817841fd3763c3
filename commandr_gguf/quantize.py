"""ggml's number formats: rows of floats to blocks and back, by the native library on several threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, check


def type_find(name: str) -> int:
    """The ggml_type of a name such as "Q4_K" (upper or lower case). Raises ArgumentError when there is none."""
    if not isinstance(name, str):
        raise ArgumentError(f"a ggml type must be named by a string, not {name!r}")
    number = int(lib.commandr_type_find(name.upper().encode("utf-8", "replace")))
    if number < 0:
        raise ArgumentError(f"there is no ggml type named {name!r}")
    return number


def type_name(ggml_type: int) -> str:
    """The name of a ggml_type, such as "Q4_K". Raises ArgumentError when there is no such type."""
    name = lib.commandr_type_name(ggml_type)
    if not name:
        raise ArgumentError(f"there is no ggml type {ggml_type}")
    text: bytes = ffi.string(name)
    return text.decode()


def block_size(ggml_type: int | str) -> int:
    """Elements in a block of a type."""
    number = _number(ggml_type)
    return int(lib.commandr_type_block_size(number))


def row_size(ggml_type: int | str, n: int) -> int:
    """Bytes of a row of `n` elements. Raises ArgumentError when `n` is not a whole number of blocks."""
    number = _number(ggml_type)
    size = int(lib.commandr_type_row_size(number, n)) if n > 0 else 0
    if size == 0:
        raise ArgumentError(f"a row of {n} elements is not a whole number of {type_name(number)} blocks")
    return size


def needs_imatrix(ggml_type: int | str) -> bool:
    """Whether a type cannot be quantized without an importance matrix."""
    return bool(lib.commandr_type_needs_imatrix(_number(ggml_type)))


def quantize_rows(
    ggml_type: int | str,
    rows: npt.NDArray[np.float32],
    *,
    imatrix: npt.NDArray[np.float32] | None = None,
    n_threads: int = 0,
) -> npt.NDArray[np.uint8]:
    """Quantize float32 rows [n_rows, n_per_row] to blocks [n_rows, row_size]. The GIL is released.

    Args:
        ggml_type: the type of the result, as a number or a name.
        rows: n_per_row is a multiple of the type's block size. NaN and infinities are refused.
        imatrix: [n_per_row] weights of the columns.
        n_threads: 0 = the physical cores that this process may use.
    """
    source = np.ascontiguousarray(rows, dtype=np.float32)
    if source.ndim != 2:
        raise ArgumentError(f"rows must have two dimensions, not {source.ndim}")
    return _convert("F32", source, ggml_type, source.shape[1], imatrix, n_threads, ffi.NULL)


def dequantize_rows(
    ggml_type: int | str, blocks: npt.NDArray[np.uint8], n_per_row: int, *, n_threads: int = 0
) -> npt.NDArray[np.float32]:
    """The float32 rows [n_rows, n_per_row] that blocks [n_rows, row_size] stand for. The GIL is released."""
    rows, _ = convert_rows(ggml_type, blocks, "F32", n_per_row, n_threads=n_threads)
    return rows.view(np.float32)


def convert_rows(
    source_type: int | str,
    rows: npt.NDArray[np.uint8],
    ggml_type: int | str,
    n_per_row: int,
    *,
    imatrix: npt.NDArray[np.float32] | None = None,
    n_threads: int = 0,
) -> tuple[npt.NDArray[np.uint8], int]:
    """Rows of one type [n_rows, row_size] to rows of another, and how many values are NaN or infinite.

    Those stay what they are in F32, F16 and BF16 and become 0 in blocks. The GIL is released. Other arguments as in
    :func:`quantize_rows`.
    """
    source = np.ascontiguousarray(rows, dtype=np.uint8)
    size = row_size(source_type, n_per_row)
    if source.ndim != 2 or source.shape[1] != size:
        raise ArgumentError(f"rows must have the shape (n_rows, {size}), not {source.shape}")
    n_nonfinite = ffi.new("int64_t *")
    converted = _convert(source_type, source, ggml_type, n_per_row, imatrix, n_threads, n_nonfinite)
    return converted, int(n_nonfinite[0])


def _convert(
    source_type: int | str,
    source: npt.NDArray[Any],
    ggml_type: int | str,
    n_per_row: int,
    imatrix: npt.NDArray[np.float32] | None,
    n_threads: int,
    n_nonfinite: Any,
) -> npt.NDArray[np.uint8]:
    number = _number(ggml_type)
    converted = np.empty((source.shape[0], row_size(number, n_per_row)), dtype=np.uint8)
    weights = None
    if imatrix is not None:
        weights = np.ascontiguousarray(imatrix, dtype=np.float32)
        if weights.shape != (n_per_row,):
            raise ArgumentError(f"imatrix must have the shape ({n_per_row},), not {weights.shape}")
    check(
        lib.commandr_convert_rows(
            _number(source_type),
            ffi.from_buffer(source),
            number,
            ffi.from_buffer(converted, require_writable=True),
            source.shape[0],
            n_per_row,
            ffi.NULL if weights is None else ffi.from_buffer("float[]", weights),
            n_threads,
            n_nonfinite,
        )
    )
    return converted


def _number(ggml_type: int | str) -> int:
    return type_find(ggml_type) if isinstance(ggml_type, str) else ggml_type
