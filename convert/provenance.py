"""What a file says of its own making, so that it can be made again: keys under ``commandr.convert.``.

Nothing in them changes from one conversion to the next of the same things: no times, no folders of the machine. The
types of tensors that were chosen one by one are those of the file's tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePath

from gguf import GGUFValueType as Type

from convert.imatrix import ImportanceMatrix
from convert.metadata import Keys, Value

PREFIX = "commandr.convert."


def provenance_keys(
    origin: Mapping[str, str],
    file_type: str,
    types: Mapping[str, str] | None = None,
    imatrix: ImportanceMatrix | None = None,
) -> Keys:
    """The keys of one file.

    ``origin``: the model's source, repository, revision and lora, and where ``types`` are from: the lines of a recipe,
    a target and the hash of its sensitivity file. ``types``: those of tensors that were not chosen by ``file_type``.
    ``imatrix`` also gives the keys that llama.cpp's quantizer writes.
    """
    texts = {"version": _version(), **origin, "type": file_type}
    keys: Keys = {f"{PREFIX}{name}": Value(text, Type.STRING) for name, text in texts.items()}
    if types:
        keys[f"{PREFIX}own_types_count"] = Value(len(types), Type.UINT32)
    if imatrix is not None:
        keys[f"{PREFIX}imatrix.sha256"] = Value(imatrix.sha256, Type.STRING)
        keys["quantize.imatrix.file"] = Value(imatrix.path.name, Type.STRING)
        if imatrix.datasets:
            names = ", ".join(PurePath(dataset).name for dataset in imatrix.datasets)
            keys["quantize.imatrix.dataset"] = Value(names, Type.STRING)
        keys["quantize.imatrix.entries_count"] = Value(len(imatrix.entries), Type.UINT32)
        keys["quantize.imatrix.chunks_count"] = Value(imatrix.n_chunks, Type.UINT32)
    return keys


def _version() -> str:
    try:
        return version("commandr-gguf")
    except PackageNotFoundError:  # run from its sources
        return "unknown"
