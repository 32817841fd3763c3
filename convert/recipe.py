"""A file type such as Q4_K_M to the ggml type of each tensor; pure.

The choices are those of llama.cpp's quantizer for these architectures, so that sizes and quality compare one to one:
the embedding is also the head and gets the head's type, the value projections and the second feed-forward matrix of
some layers get more bits, norms stay F32, and rows that are not a multiple of a type's block get a coarser block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import gguf

from convert.errors import ArgumentError
from convert.ggml_types import block_size


@dataclass(frozen=True)
class FileType:
    """``name`` as users write it, ``number`` as general.file_type has it, ``base`` the type of most tensors."""

    name: str
    number: int
    base: str


@dataclass(frozen=True)
class ModelShape:
    """What the choices depend on besides the tensor: ``n_gqa`` query heads share one key-value head."""

    n_layer: int
    n_gqa: int


FILE_TYPES = {
    name: FileType(name, int(number), base)
    for name, number, base in (
        ("F32", gguf.LlamaFileType.ALL_F32, "F32"),
        ("F16", gguf.LlamaFileType.MOSTLY_F16, "F16"),
        ("BF16", gguf.LlamaFileType.MOSTLY_BF16, "BF16"),
        ("Q8_0", gguf.LlamaFileType.MOSTLY_Q8_0, "Q8_0"),
        ("Q6_K", gguf.LlamaFileType.MOSTLY_Q6_K, "Q6_K"),
        ("Q5_K_M", gguf.LlamaFileType.MOSTLY_Q5_K_M, "Q5_K"),
        ("Q5_K_S", gguf.LlamaFileType.MOSTLY_Q5_K_S, "Q5_K"),
        ("Q4_K_M", gguf.LlamaFileType.MOSTLY_Q4_K_M, "Q4_K"),
        ("Q4_K_S", gguf.LlamaFileType.MOSTLY_Q4_K_S, "Q4_K"),
        ("Q4_0", gguf.LlamaFileType.MOSTLY_Q4_0, "Q4_0"),
        ("IQ4_XS", gguf.LlamaFileType.MOSTLY_IQ4_XS, "IQ4_XS"),
        ("Q3_K_M", gguf.LlamaFileType.MOSTLY_Q3_K_M, "Q3_K"),
        ("Q2_K", gguf.LlamaFileType.MOSTLY_Q2_K, "Q2_K"),
    )
}

_ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M"}

# For rows that are not whole blocks of 256: the nearest type with blocks of 32.
_FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}

_UNQUANTIZED = ("F32", "F16", "BF16")


def file_type(name: str) -> FileType:
    """A file type by its name, in upper or lower case. Raises ArgumentError for one that is not known."""
    upper = name.upper()
    found = FILE_TYPES.get(_ALIASES.get(upper, upper))
    if found is None:
        raise ArgumentError(f"unknown type {name!r}: choose one of {', '.join(FILE_TYPES)}")
    return found


def tensor_type(recipe: FileType, shape: ModelShape, name: str, tensor_shape: Iterable[int]) -> str:
    """The ggml type of the tensor called ``name`` in the GGUF file. ``tensor_shape``: elements, rows first."""
    *rows, n_per_row = tensor_shape
    if not rows or name.endswith("_norm.weight"):
        return "F32"
    if recipe.base in _UNQUANTIZED:
        return recipe.base
    wanted = _wanted(recipe, shape, name, n_per_row)
    if n_per_row % block_size(wanted):
        wanted = _FALLBACK.get(wanted, wanted)
    return "F16" if n_per_row % block_size(wanted) else wanted


def _wanted(recipe: FileType, shape: ModelShape, name: str, n_per_row: int) -> str:
    """The type of a weight when its rows are whole blocks."""
    base = recipe.base
    if name == "token_embd.weight":
        return "Q8_0" if base == "Q8_0" or n_per_row % block_size(base) else "Q6_K"
    _, number, kind, _ = name.split(".")
    layer = int(number)
    if kind == "attn_v":
        return _attn_v(recipe.name, base, shape, layer)
    if kind == "ffn_down":
        return _ffn_down(recipe.name, base, shape.n_layer, layer)
    if kind == "attn_output":
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}.get(recipe.name, base)
    return base


def _attn_v(recipe: str, base: str, shape: ModelShape, layer: int) -> str:
    if recipe == "Q2_K":
        return "Q4_K" if shape.n_gqa >= 4 else "Q3_K"
    if recipe == "Q3_K_M":
        return "Q5_K" if layer < 2 else "Q4_K"
    if recipe == "IQ4_XS" and shape.n_gqa >= 4:
        return "Q5_K"
    if recipe == "Q4_K_S" and layer < 4:
        return "Q5_K"
    if recipe in ("Q4_K_M", "Q5_K_M") and _gets_more_bits(layer, shape.n_layer):
        return "Q6_K"
    return base


def _ffn_down(recipe: str, base: str, n_layer: int, layer: int) -> str:
    if recipe == "Q2_K":
        return "Q3_K"
    if recipe == "Q3_K_M":
        return "Q5_K" if layer < n_layer // 16 else "Q4_K"
    if recipe in ("IQ4_XS", "Q4_K_S") and layer < n_layer // 8:
        return "Q5_K"
    if recipe in ("Q4_K_M", "Q5_K_M") and _gets_more_bits(layer, n_layer):
        return "Q6_K"
    return base


def _gets_more_bits(layer: int, n_layer: int) -> bool:
    """The first and the last eighth of the layers and every third one between."""
    eighth = n_layer // 8
    return layer < eighth or layer >= 7 * n_layer // 8 or (layer - eighth) % 3 == 2
