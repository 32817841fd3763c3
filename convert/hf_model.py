"""A checkpoint folder as transformers saves it, read into a model to convert."""

from __future__ import annotations

from pathlib import Path

from convert.checkpoint import Checkpoint
from convert.hparams import read_hparams
from convert.inventory import take_inventory
from convert.metadata import general_keys, model_keys, tokenizer_keys
from convert.source import ModelTensor, SourceModel
from convert.spm_vocab import has_only_sentencepiece, read_sentencepiece_vocab
from convert.templates import read_chat_templates
from convert.vocab import read_vocab

# What conversions leave in the folder of a checkpoint is no part of it.
_OUTPUTS = (".gguf", ".part", ".done", ".new", ".replaced")


def read_hf_model(folder: Path, *, context_length: int | None = None) -> SourceModel:
    """Read and check everything but the weights' values. ``context_length`` overrides what the checkpoint says."""
    checkpoint = Checkpoint(folder)
    hparams = read_hparams(checkpoint.config, checkpoint.tokenizer_config, context_length=context_length)
    inventory = take_inventory(checkpoint, hparams)
    n_params = sum(source.n_elements for _, source in inventory.tensors)
    read = read_sentencepiece_vocab if has_only_sentencepiece(folder) else read_vocab
    vocab = read(folder, checkpoint.config, checkpoint.tokenizer_config, hparams.n_vocab)
    templates = read_chat_templates(folder, checkpoint.tokenizer_config)
    name, repository, revision = checkpoint_name(folder)
    known = {"source": name, "repository": repository, "revision": revision}
    return SourceModel(
        name=name,
        architecture=hparams.architecture,
        n_layer=hparams.n_layer,
        n_head=hparams.n_head,
        n_head_kv=hparams.n_head_kv,
        n_ctx_train=hparams.n_ctx_train,
        tensors=[ModelTensor(name, source) for name, source in inventory.tensors],
        keys=general_keys(hparams.architecture, folder, name, repository, n_params)
        | model_keys(hparams)
        | tokenizer_keys(vocab, templates),
        notes=inventory.notes,
        files=[path for path in folder.rglob("*") if path.is_file() and path.suffix not in _OUTPUTS],
        origin={key: value for key, value in known.items() if value is not None},
    )


def checkpoint_name(folder: Path) -> tuple[str, str | None, str | None]:
    """What a checkpoint is called; the repository ("organization/name") and the commit that it is of, if known.

    The cache of huggingface_hub keeps a repository in models--ORGANIZATION--NAME/snapshots/COMMIT.
    """
    folder = folder.resolve()
    root = folder.parent.parent.name
    if folder.parent.name == "snapshots" and root.startswith("models--"):
        parts = root.removeprefix("models--").split("--")
        return parts[-1], "/".join(parts), folder.name
    return folder.name or "model", None, None
