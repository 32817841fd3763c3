"""A file type such as Q4_K_M to the ggml type of each tensor; pure.

The choices are those of llama.cpp's quantizer for these architectures, so that sizes and quality compare one to one:
the embedding is also the head and gets the head's type, some weights get another type than the others (mixes.py), norms
stay F32, and rows that are not a multiple of a type's block get a type with smaller blocks. The converter writes files
by it, and a plan computes the size of a file that is not there yet.

Left out: MXFP4_MOE, which is Q8_0 for a model without experts, and Q1_0 and Q2_0, for models trained with such weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import gguf

from commandr_gguf.mixes import Place, mixed_type


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
        ("Q5_1", gguf.LlamaFileType.MOSTLY_Q5_1, "Q5_1"),
        ("Q5_K_M", gguf.LlamaFileType.MOSTLY_Q5_K_M, "Q5_K"),
        ("Q5_K_S", gguf.LlamaFileType.MOSTLY_Q5_K_S, "Q5_K"),
        ("Q5_0", gguf.LlamaFileType.MOSTLY_Q5_0, "Q5_0"),
        ("Q4_1", gguf.LlamaFileType.MOSTLY_Q4_1, "Q4_1"),
        ("Q4_K_M", gguf.LlamaFileType.MOSTLY_Q4_K_M, "Q4_K"),
        ("Q4_K_S", gguf.LlamaFileType.MOSTLY_Q4_K_S, "Q4_K"),
        ("Q4_0", gguf.LlamaFileType.MOSTLY_Q4_0, "Q4_0"),
        ("IQ4_NL", gguf.LlamaFileType.MOSTLY_IQ4_NL, "IQ4_NL"),
        ("IQ4_XS", gguf.LlamaFileType.MOSTLY_IQ4_XS, "IQ4_XS"),
        ("Q3_K_L", gguf.LlamaFileType.MOSTLY_Q3_K_L, "Q3_K"),
        ("Q3_K_M", gguf.LlamaFileType.MOSTLY_Q3_K_M, "Q3_K"),
        ("Q3_K_S", gguf.LlamaFileType.MOSTLY_Q3_K_S, "Q3_K"),
        ("IQ3_M", gguf.LlamaFileType.MOSTLY_IQ3_M, "IQ3_S"),
        ("IQ3_S", gguf.LlamaFileType.MOSTLY_IQ3_S, "IQ3_S"),
        ("IQ3_XS", gguf.LlamaFileType.MOSTLY_IQ3_XS, "IQ3_S"),
        ("IQ3_XXS", gguf.LlamaFileType.MOSTLY_IQ3_XXS, "IQ3_XXS"),
        ("Q2_K", gguf.LlamaFileType.MOSTLY_Q2_K, "Q2_K"),
        ("Q2_K_S", gguf.LlamaFileType.MOSTLY_Q2_K_S, "Q2_K"),
        ("IQ2_M", gguf.LlamaFileType.MOSTLY_IQ2_M, "IQ2_S"),
        ("IQ2_S", gguf.LlamaFileType.MOSTLY_IQ2_S, "IQ2_XS"),
        ("IQ2_XS", gguf.LlamaFileType.MOSTLY_IQ2_XS, "IQ2_XS"),
        ("IQ2_XXS", gguf.LlamaFileType.MOSTLY_IQ2_XXS, "IQ2_XXS"),
        ("TQ2_0", gguf.LlamaFileType.MOSTLY_TQ2_0, "TQ2_0"),
        ("IQ1_M", gguf.LlamaFileType.MOSTLY_IQ1_M, "IQ1_M"),
        ("TQ1_0", gguf.LlamaFileType.MOSTLY_TQ1_0, "TQ1_0"),
        ("IQ1_S", gguf.LlamaFileType.MOSTLY_IQ1_S, "IQ1_S"),
    )
}

ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M"}

# The type that llama.cpp takes for rows that are not whole blocks of 256; those of these types are of 32.
_FALLBACK = {
    "Q6_K": "Q8_0",
    "Q5_K": "Q5_1",
    "Q4_K": "Q5_0",
    "IQ4_XS": "IQ4_NL",
    "Q3_K": "Q4_0",
    "IQ3_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "Q2_K": "Q4_0",
    "IQ2_S": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "TQ2_0": "Q4_0",
    "IQ1_M": "IQ4_NL",
    "TQ1_0": "Q4_0",
    "IQ1_S": "IQ4_NL",
}

# Of these the head is Q5_K; with IQ3_XS and above it is Q6_K, as with the other types.
_SMALL_HEAD = ("IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S")

_UNQUANTIZED = ("F32", "F16", "BF16")


def find_file_type(name: str) -> FileType | None:
    """A file type by its name, in upper or lower case; None for one that is not known."""
    upper = name.upper()
    return FILE_TYPES.get(ALIASES.get(upper, upper))


def tensor_type(
    recipe: FileType, shape: ModelShape, name: str, tensor_shape: Sequence[int], *, has_imatrix: bool = False
) -> str:
    """The ggml type of the tensor called ``name`` in the GGUF file.

    tensor_shape: elements, rows first. has_imatrix: whether the rounding is weighted by an importance matrix, which
    some choices depend on.
    """
    if is_norm(name, tensor_shape):
        return "F32"
    if recipe.base in _UNQUANTIZED:
        return recipe.base
    n_per_row = tensor_shape[-1]
    if name == "token_embd.weight":
        wanted = _head_type(recipe, n_per_row)
    else:
        _, layer, kind, _ = name.split(".")
        place = Place(int(layer), shape.n_layer, shape.n_gqa, has_imatrix)
        wanted = mixed_type(recipe.name, kind, place) or recipe.base
    if n_per_row % _block_size(wanted):
        wanted = _FALLBACK.get(wanted, wanted)
    return "F16" if n_per_row % _block_size(wanted) else wanted


def is_norm(name: str, tensor_shape: Sequence[int]) -> bool:
    """Whether a tensor is a norm's, which are kept in F32."""
    return len(tensor_shape) < 2 or name.endswith("_norm.weight")


def _head_type(recipe: FileType, n_per_row: int) -> str:
    if recipe.base == "Q8_0" or n_per_row % _block_size(recipe.base):
        return "Q8_0"
    return "Q5_K" if recipe.name in _SMALL_HEAD else "Q6_K"


def _block_size(ggml_type: str) -> int:
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[ggml_type]][0]
