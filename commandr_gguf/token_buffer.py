"""Token ids on their way to native code."""

from __future__ import annotations

import array
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf._native import ffi
from commandr_gguf.errors import ArgumentError

Tokens = Sequence[int] | npt.NDArray[np.integer[Any]]
"""Token ids. An array of 32-bit integers (`array("i")` or numpy int32) is used in place, without a copy."""


def token_ids(tokens: Tokens) -> array.array[int]:
    """The ids of a prompt, copied into an array of native 32-bit integers.

    Raises:
        ArgumentError: the prompt is empty, or is no sequence of such integers.
    """
    if isinstance(tokens, (str, bytes, bytearray, memoryview)):
        raise ArgumentError(f"tokens must be a sequence of token ids, not {type(tokens).__name__}")
    try:
        ids = array.array("i", tokens if isinstance(tokens, array.array) else [operator.index(t) for t in tokens])
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"tokens must be a sequence of token ids: {error}") from None
    if not ids:
        raise ArgumentError("the prompt is empty")
    return ids


def token_buffer(tokens: Tokens) -> Any:
    """The ids as a native int32_t[]; to be released where the caller's own array lies behind it."""
    if isinstance(tokens, np.ndarray):
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ArgumentError("tokens must be a sequence of integers")
        if tokens.dtype != np.int32 and tokens.size and (tokens.min() < -(2**31) or tokens.max() >= 2**31):
            raise ArgumentError("a token id does not fit in 32 bits")
        return ffi.from_buffer("int32_t[]", np.ascontiguousarray(tokens, dtype=np.int32))
    if isinstance(tokens, (str, bytes, bytearray, memoryview)):
        raise ArgumentError(f"tokens must be a sequence of token ids, not {type(tokens).__name__}")
    if isinstance(tokens, array.array) and tokens.typecode == "i" and tokens.itemsize == 4:
        return ffi.from_buffer("int32_t[]", tokens)
    try:
        return ffi.new("int32_t[]", list(tokens))
    except (TypeError, OverflowError) as error:
        raise ArgumentError(f"tokens must be a sequence of token ids: {error}") from None
