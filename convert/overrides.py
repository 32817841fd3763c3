r"""A file of own choices of types, tensor by tensor.

    # Lines of REGEX=TYPE; what follows a '#' is a comment.
    attn_v\.weight=Q6_K
    blk\.([0-3])\.ffn_down=Q5_K
    ^token_embd=Q8_0

An expression (Python's re) may match anywhere in a tensor's GGUF name, as in llama.cpp's --tensor-type-file: begin it
with ^ and end it with $ to match the whole. For each tensor the first line that matches wins, and what no line matches
keeps the type it has otherwise. TYPE is a ggml type, in upper or lower case, and is taken as it is: rows that are not
whole blocks of it are an error, where a file type takes a type of smaller blocks. Norms stay F32, the only type that
programs read them in; a line that matches weights may match norms, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.errors import ArgumentError
from convert.ggml_types import block_size
from convert.recipe import GGML_TYPES, is_norm


@dataclass(frozen=True)
class Override:
    """One line: ``place`` is "FILE, line N" for messages."""

    place: str
    pattern: re.Pattern[str]
    ggml_type: str

    def __str__(self) -> str:
        return f"{self.pattern.pattern}={self.ggml_type}"


def read_recipe_file(path: Path) -> list[Override]:
    """The lines of a file, in order. Raises ArgumentError naming the line that is at fault."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ArgumentError(f"{path} is not a text file in UTF-8") from None
    lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1)]
    overrides = [_override(f"{path}, line {number}", line) for number, line in lines if line]
    if not overrides:
        raise ArgumentError(f"{path} has no line of the form REGEX=TYPE")
    return overrides


def override_types(overrides: Iterable[Override], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """The ggml type of each tensor that a line chooses one for.

    ``shapes``: of all tensors of the file by name, rows first. Raises ArgumentError naming the line that chooses for no
    tensor, or the tensor whose rows are not whole blocks of the line's type.
    """
    types: dict[str, str] = {}
    for override in overrides:
        matched = [name for name in shapes if override.pattern.search(name)]
        weights = [name for name in matched if not is_norm(name, shapes[name])]
        if not matched:
            raise ArgumentError(f"{override.place}: {override.pattern.pattern} matches no tensor of this model")
        if not weights and override.ggml_type != "F32":
            raise ArgumentError(f"{override.place}: {override.pattern.pattern} matches only norms, which stay F32")
        if all(name in types for name in weights) and weights:
            raise ArgumentError(f"{override.place}: lines above choose for all that {override.pattern.pattern} matches")
        for name in weights:
            if name in types:
                continue
            n_block, n_per_row = block_size(override.ggml_type), shapes[name][-1]
            if n_per_row % n_block:
                raise ArgumentError(
                    f"{override.place}: {name} cannot be {override.ggml_type}: its rows of {n_per_row} are no whole "
                    f"blocks of {n_block}"
                )
            types[name] = override.ggml_type
    return types


def _override(place: str, line: str) -> Override:
    expression, equals, type_name = (part.strip() for part in line.rpartition("="))
    if not equals or not expression or not type_name:
        raise ArgumentError(f"{place}: {line!r} is not of the form REGEX=TYPE")
    if type_name.upper() not in GGML_TYPES:
        raise ArgumentError(f"{place}: {type_name} is no type of a tensor: choose one of {', '.join(GGML_TYPES)}")
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ArgumentError(f"{place}: {expression} is not a regular expression: {error}") from error
    return Override(place, pattern, type_name.upper())
