"""What a user names to the model that it is: a folder, a GGUF file or a repository, with adapters on top."""

from __future__ import annotations

from collections.abc import Sequence

from convert.gguf_model import is_gguf, read_gguf_model
from convert.hf_model import read_hf_model
from convert.hub import local_folder
from convert.lora import merge_adapter
from convert.source import SourceModel


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
    for adapter in adapters:
        model = merge_adapter(local_folder(adapter, quiet=quiet), model)
    return model
