"""Everything in a GGUF file but its tensors: ordered keys, named and typed as llama.cpp's converter does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
from gguf import GGUFValueType as Type

from convert.errors import CheckpointError
from convert.hparams import HParams
from convert.spm_vocab import SentencePieceVocab
from convert.templates import DEFAULT
from convert.vocab import MODEL, PRE_TOKENIZER, Vocab
from convert.window import DEFAULT_PERIOD

_SPECIAL_KEYS = {"unk": "unknown", "sep": "seperator", "pad": "padding"}  # "seperator" is how the format spells it


class Value(NamedTuple):
    """A key's value and its type; ``sub_type`` is the type of an array's elements."""

    value: Any
    type: Type
    sub_type: Type | None = None


Keys = dict[str, Value]


def general_keys(architecture: str, folder: Path, name: str, repository: str | None, n_params: int) -> Keys:
    """``general.*`` from the model card, the configs and the folder's name, by the gguf package's own rules.

    ``name``: what the checkpoint is called when no file says; ``repository``: "organization/name" that it was
    downloaded from, None when unknown. Raises CheckpointError when the front matter of README.md is not that of a model
    card.
    """
    card = folder / "README.md"
    writer = gguf.GGUFWriter(None, architecture)
    writer.add_type("model")
    try:
        metadata = gguf.Metadata.load(model_path=folder, total_params=n_params)
        if repository is not None:
            # The folder of a download is named after a commit; the repository's name has the parts that matter.
            parts = gguf.Metadata.get_model_id_components(repository, n_params)
            metadata.organization, metadata.basename, metadata.finetune, metadata.version = parts[1:5]
            metadata.name = gguf.Metadata.id_to_title(name)
        metadata.name = metadata.name or name
        metadata.size_label = metadata.size_label or gguf.size_label(n_params, n_params, 0, 0)
        metadata.set_gguf_meta_model(writer)
    except Exception as error:  # gguf checks nothing, so a card can make it raise anything
        problem = " ".join(str(error).split())
        raise CheckpointError(f"{card}: the front matter is not that of a model card: {problem}") from error

    keys = {key: _checked(key, item.value, item.type, item.sub_type) for key, item in writer.kv_data[0].items()}
    if repository is not None:
        keys["general.source.huggingface.repository"] = Value(repository, Type.STRING)
    return keys


def _checked(key: str, value: Any, kind: Type, sub_type: Type | None) -> Value:
    """A value that the card's author may have written as a number where the format wants text, or the like."""
    if kind is Type.STRING:
        return Value(str(value), kind)
    if kind is Type.ARRAY:
        return Value([str(item) for item in value], kind)
    number = (int, float) if kind is Type.FLOAT32 else (int,)
    if isinstance(value, bool) or not isinstance(value, number):
        raise CheckpointError(f"README.md or generation_config.json gives {key} the value {value!r}, not a number")
    return Value(value, kind, sub_type)


def model_keys(hparams: HParams) -> Keys:
    """The hyper-parameters, under the architecture's prefix."""
    h = hparams
    keys: Keys = {}

    def add(name: str, value: float | str, kind: Type = Type.UINT32) -> None:
        keys[f"{h.architecture}.{name}"] = Value(value, kind)

    add("block_count", h.n_layer)
    add("context_length", h.n_ctx_train)
    add("embedding_length", h.n_embd)
    add("feed_forward_length", h.n_ff)
    add("attention.head_count", h.n_head)
    add("attention.head_count_kv", h.n_head_kv)
    add("rope.freq_base", h.rope_freq_base, Type.FLOAT32)
    add("attention.layer_norm_epsilon", h.norm_eps, Type.FLOAT32)
    add("logit_scale", h.logit_scale, Type.FLOAT32)
    add("rope.scaling.type", "none", Type.STRING)
    add("vocab_size", h.n_vocab)
    if h.architecture == "cohere2":
        add("attention.key_length", h.head_dim)
        add("attention.value_length", h.head_dim)
        add("attention.sliding_window", h.sliding_window)
        add("rope.dimension_count", h.head_dim)
        # Readers take 4 when the key is absent, and llama.cpp's converter never writes it.
        if h.swa_period != DEFAULT_PERIOD:
            add("attention.sliding_window_pattern", h.swa_period)
    return keys


def tokenizer_keys(vocab: Vocab, templates: Mapping[str, str]) -> Keys:
    """``tokenizer.*``: tokens, types, merges, special ids and the chat templates by name."""
    pieces = vocab if isinstance(vocab, SentencePieceVocab) else None
    keys: Keys = {
        "tokenizer.ggml.model": Value(MODEL if pieces is None else pieces.model, Type.STRING),
        "tokenizer.ggml.pre": Value(PRE_TOKENIZER if pieces is None else "default", Type.STRING),
        "tokenizer.ggml.tokens": Value(vocab.tokens, Type.ARRAY),
    }
    if pieces is not None:
        keys["tokenizer.ggml.scores"] = Value(pieces.scores, Type.ARRAY)
    keys["tokenizer.ggml.token_type"] = Value([int(kind) for kind in vocab.types], Type.ARRAY)
    if vocab.merges:
        keys["tokenizer.ggml.merges"] = Value(vocab.merges, Type.ARRAY)
    if pieces is not None:
        keys["tokenizer.ggml.add_space_prefix"] = Value(pieces.add_space_prefix, Type.BOOL)
        keys["tokenizer.ggml.remove_extra_whitespaces"] = Value(pieces.remove_extra_whitespaces, Type.BOOL)
        if pieces.charsmap:
            keys["tokenizer.ggml.precompiled_charsmap"] = Value(pieces.charsmap, Type.ARRAY)
    for kind, i in vocab.special_ids.items():
        keys[f"tokenizer.ggml.{_SPECIAL_KEYS.get(kind, kind)}_token_id"] = Value(i, Type.UINT32)
    keys["tokenizer.ggml.add_bos_token"] = Value(vocab.add_bos, Type.BOOL)
    keys["tokenizer.ggml.add_eos_token"] = Value(vocab.add_eos, Type.BOOL)

    # An empty text is no template, and readers take an empty array for damage.
    named = {name: text for name, text in templates.items() if name != DEFAULT and text}
    for name, text in named.items():
        keys[f"tokenizer.chat_template.{name}"] = Value(text, Type.STRING)
    if named:
        keys["tokenizer.chat_templates"] = Value(list(named), Type.ARRAY)
    if templates.get(DEFAULT):
        keys["tokenizer.chat_template"] = Value(templates[DEFAULT], Type.STRING)
    return keys
