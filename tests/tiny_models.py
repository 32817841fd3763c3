"""Checkpoints of the four shapes with very few columns, and the text that importance matrices of them were made from.

llama.cpp takes a Command-R file for one with q/k norms when it has 64 layers, hence their number in r_plus.
"""

from __future__ import annotations

import functools
import gzip
import tempfile
from pathlib import Path
from typing import Any

import corpus
import models
import shapes
from commandr_gguf.imatrix import ImportanceMatrix

_SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
_OVERRIDES: dict[str, dict[str, Any]] = {
    "v01": _SMALL | {"num_hidden_layers": 2},
    "gqa": _SMALL | {"num_hidden_layers": 2, "num_key_value_heads": 2},
    "r_plus": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 64,
    },
    "cohere2": _SMALL | {"head_dim": 16, "num_hidden_layers": 4},
}

# Composed characters only: llama.cpp applies no NFC.
TEXT = "\n".join(corpus.LANGUAGES[name] for name in ("English", "French", "Spanish", "Italian", "German", "Portuguese"))

WITH_IMATRIX = (("v01", "F32"), ("gqa", "F32"), ("r_plus", "F32"), ("cohere2", "F32"), ("gqa", "BF16"))
"""Shape and file type of what llama.cpp has read."""


@functools.cache
def gguf(shape: str, file_type: str = "F32") -> Path:
    """The converted file of a shape."""
    folder = models.folder() / f"tiny-{shape}"
    checkpoint = shapes.write_checkpoint(folder, shape, **_OVERRIDES[shape])
    return models.convert(checkpoint, folder / f"{file_type}.gguf", file_type)


def llama_cpp_bytes(shape: str, file_type: str = "F32") -> bytes:
    """The file that llama.cpp wrote, see golden/write_imatrix.py."""
    return gzip.decompress((models.GOLDEN / "imatrix" / f"{shape}-{file_type}.gguf.gz").read_bytes())


def llama_cpp_imatrix(shape: str, file_type: str = "F32") -> ImportanceMatrix:
    """What llama.cpp collected."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(llama_cpp_bytes(shape, file_type))
        file.flush()
        return ImportanceMatrix.read(file.name)
