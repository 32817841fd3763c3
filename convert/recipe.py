"""What a conversion makes of a file type such as Q4_K_M; the types of its tensors are commandr_gguf.recipe's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from commandr_gguf.recipe import ALIASES, FILE_TYPES, FileType, ModelShape, find_file_type, is_norm, tensor_type
from convert.errors import ArgumentError

__all__ = [
    "FILE_TYPES",
    "GGML_TYPES",
    "HOW_TO_MAKE_IMATRIX",
    "FileType",
    "ModelShape",
    "check_imatrix",
    "file_type",
    "guessed_file_type",
    "is_norm",
    "needs_imatrix",
    "tensor_type",
]

GGML_TYPES = tuple(dict.fromkeys(recipe.base for recipe in FILE_TYPES.values()))  # those that tensors may have

HOW_TO_MAKE_IMATRIX = "make one with 'commandr imatrix MODEL.gguf TEXT -o X.imatrix.gguf' and give it with --imatrix"


def file_type(name: str) -> FileType:
    """A file type by its name, in upper or lower case. Raises ArgumentError for one that is not known."""
    found = find_file_type(name)
    if found is None:
        raise ArgumentError(f"unknown type {name!r}: choose one of {', '.join(FILE_TYPES)}")
    return found


def guessed_file_type(types: Iterable[str]) -> FileType:
    """What llama.cpp takes a file for that does not say: by the type that most tensors have, norms not counted."""
    most = Counter(t for t in types if t != "F32").most_common(1)
    base = most[0][0] if most else "F32"
    name = ALIASES.get(base, base)
    return FILE_TYPES[name]


def needs_imatrix(ggml_type: str, recipe: str = "") -> bool:
    """Whether rounding to a ggml type is of use only when an importance matrix weighs the errors.

    Q2_K is such a type in ``recipe`` Q2_K_S, which lacks the tensors in larger types that make up for it in Q2_K.
    """
    return ggml_type.startswith(("IQ1", "IQ2", "IQ3")) or (recipe == "Q2_K_S" and ggml_type == "Q2_K")


def check_imatrix(recipe: FileType, *, has_imatrix: bool) -> None:
    """Raises ArgumentError for a file type that needs an importance matrix when there is none."""
    if not has_imatrix and needs_imatrix(recipe.base, recipe.name):
        raise ArgumentError(f"type {recipe.name} needs an importance matrix: {HOW_TO_MAKE_IMATRIX}")
