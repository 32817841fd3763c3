"""Small SentencePiece models, trained on the corpus, and GGUF files with their vocabularies."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
from gguf import GGUFWriter

import corpus
from convert.metadata import tokenizer_keys
from convert.spm_vocab import SentencePieceVocab, read_sentencepiece_vocab

KINDS = ("bpe", "unigram")
TURNS = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>")


@functools.cache
def train(kind: str, **options: Any) -> bytes:
    """The bytes of a tokenizer.model: some 600 pieces with the 256 bytes, of which no character is left out."""
    settings: dict[str, Any] = {
        "model_type": kind,
        "vocab_size": 640,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "character_coverage": 0.98,  # leaves rare characters to the bytes
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "num_threads": 1,
        "minloglevel": 2,
    }
    out = io.BytesIO()
    settings |= {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*corpus.LANGUAGES.values()] * 2), model_writer=out, **settings
    )
    return out.getvalue()


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """What the sentencepiece package makes of a model."""
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def vocab(folder: Path, model: bytes, *, n_fillers: int = 0, **tokenizer_config: Any) -> SentencePieceVocab:
    """What the converter reads from a folder with this tokenizer.model, with Command-R's turn tokens added behind."""
    (folder / "tokenizer.model").write_bytes(model)
    n = processor(model).vocab_size()
    decoder = {str(n + i): {"content": text, "special": False} for i, text in enumerate(TURNS)}
    config = {"added_tokens_decoder": decoder, "eos_token": TURNS[1]} | tokenizer_config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return read_sentencepiece_vocab(folder, {}, config, n + len(TURNS) + n_fillers)


def write_gguf(path: Path, vocabulary: SentencePieceVocab) -> Path:
    """A GGUF file of nothing but a vocabulary."""
    writer = GGUFWriter(path, "command-r")
    for name, (value, kind, sub_type) in tokenizer_keys(vocabulary, {}).items():
        writer.add_key_value(name, value, kind, sub_type)
    writer.add_uint32("command-r.vocab_size", len(vocabulary.tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path
