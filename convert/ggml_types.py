"""Sizes of ggml's number formats: blocks of so many elements in so many bytes."""

from __future__ import annotations

import gguf


def block_size(ggml_type: str) -> int:
    """Elements in a block of a ggml type; rows are whole blocks."""
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[ggml_type]][0]


def row_size(ggml_type: str, n_per_row: int) -> int:
    """Bytes of a row of ``n_per_row`` elements."""
    n_block, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[ggml_type]]
    return n_per_row // n_block * n_bytes
