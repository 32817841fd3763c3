"""What a user names to the model that it is: a folder, a GGUF file or a repository, with adapters on top."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

from convert.gguf_model import is_gguf, read_gguf_model
from convert.hf_model import read_hf_model
from convert.hub import local_folder
from convert.lora import merge_adapter
from convert.rows import FileRows
from convert.source import ModelTensor, SourceModel


def read_input(
    name: str, *, adapters: Sequence[str] = (), context_length: int | None = None, quiet: bool = False
) -> SourceModel:
    """Read and check everything but the weights' values.

    ``name`` and ``adapters``: paths, or ORGANIZATION/NAME(@REVISION) of repositories, which are downloaded. Adapters
    are merged in their order. ``context_length`` overrides what the files say; ``quiet``: no progress bars.
    """
    path = local_folder(name, quiet=quiet)
    read = read_gguf_model if is_gguf(path) else read_hf_model
    model = read(path, context_length=context_length)
    origin = {**model.origin, "source_fingerprint": fingerprint(model.tensors)}
    model = dataclasses.replace(model, origin=origin)
    for adapter in adapters:
        model = merge_adapter(local_folder(adapter, quiet=quiet), model)
    return model


def fingerprint(tensors: Sequence[ModelTensor]) -> str:
    """Tells models of one name apart without reading all of them: a hash of each tensor's description and first row."""
    digest = hashlib.sha256()
    with FileRows() as rows:
        for tensor in tensors:
            digest.update(f"{tensor.name} {tensor.source.dtype} {tensor.source.shape}".encode())
            digest.update(rows.read(tensor.source, 0, 1).tobytes())
    return digest.hexdigest()
