"""tokenizer.model, a SentencePiece vocabulary, to the tokenizer keys of a GGUF file.

Fine-tunes that were given another vocabulary have one instead of tokenizer.json. The sentencepiece package says whether
the file is sound; the parts that it does not give out are read from the protocol buffer (sentencepiece_model.proto):

    1 pieces (repeated)   1 piece, 2 score (float), 3 type: the numbers of GGUF's token types
    2 trainer_spec        3 model_type (1 unigram, 2 BPE), 24 treat_whitespace_as_suffix
    3 normalizer_spec     2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sentencepiece
from gguf import TokenType

from convert.checkpoint import read_json
from convert.errors import CheckpointError, UnsupportedError
from convert.vocab import Vocab, read_flag, read_special_ids, refuse_flags

FILE = "tokenizer.model"

# llama.cpp's names: "t5" is its unigram tokenizer, of whatever model.
_MODELS = {1: "t5", 2: "llama"}

_ADDED_SCORE, _FILLER_SCORE = -1000.0, -10000.0  # what llama.cpp's converter writes; no text is split by them
_SPECIAL = re.compile(r"<\|[^<>|\s]+\|>|<[^<>\s]+>|\[/?[A-Z_]+\]")

_Fields = dict[int, list[int | bytes]]
_T = TypeVar("_T", int, bytes)


@dataclass(frozen=True)
class SentencePieceVocab(Vocab):
    """``scores`` has n_vocab entries; the others say how a text is changed before it is split."""

    model: str
    scores: list[float]
    add_space_prefix: bool
    remove_extra_whitespaces: bool
    charsmap: bytes


def has_only_sentencepiece(folder: Path) -> bool:
    """Whether a checkpoint's tokenizer is a tokenizer.model and no tokenizer.json."""
    return (folder / FILE).exists() and not (folder / "tokenizer.json").exists()


def read_sentencepiece_vocab(
    folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], n_vocab: int
) -> SentencePieceVocab:
    """The vocabulary of a checkpoint, padded with unused tokens to ``n_vocab``.

    Raises CheckpointError for a file that is damaged or does not fit the model, UnsupportedError for a kind of model
    that GGUF has no name for.
    """
    path = folder / FILE
    try:
        data = path.read_bytes()
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a SentencePiece model: {' '.join(str(error).split())}") from error
    model = _fields(data)
    trainer, normalizer = (_fields(_last(model, number, b"")) for number in (2, 3))
    kind = _last(trainer, 3, 1)
    if kind not in _MODELS:
        raise UnsupportedError(f"{path}: a SentencePiece model of type {kind}; only unigram (1) and BPE (2) are known")
    if _last(trainer, 24, 0) or not _last(normalizer, 5, 1):
        raise UnsupportedError(f"{path}: spaces at the end of words, or unescaped ones, are not supported")

    tokens, types, scores = _tokens(path, model, n_vocab)
    _add_tokens(folder, tokenizer_config, tokens, types, scores)
    ids = {"bos": processor.bos_id(), "eos": processor.eos_id(), "unk": processor.unk_id(), "pad": processor.pad_id()}
    return SentencePieceVocab(
        tokens=tokens,
        types=types,
        merges=[],
        special_ids=read_special_ids(
            config,
            tokenizer_config,
            {text: i for i, text in enumerate(tokens)},
            n_vocab,
            default={kind: i for kind, i in ids.items() if i >= 0},
        ),
        add_bos=read_flag(tokenizer_config, "add_bos_token", default=True),
        add_eos=read_flag(tokenizer_config, "add_eos_token", default=False),
        model=_MODELS[kind],
        scores=scores,
        add_space_prefix=bool(_last(normalizer, 3, 1)),
        remove_extra_whitespaces=bool(_last(normalizer, 4, 1)),
        charsmap=_last(normalizer, 2, b""),
    )


def _tokens(path: Path, model: _Fields, n_vocab: int) -> tuple[list[str], list[TokenType], list[float]]:
    pieces = [_fields(piece) for piece in model.get(1, []) if isinstance(piece, bytes)]
    if len(pieces) > n_vocab:
        raise CheckpointError(f"{path} has {len(pieces)} pieces, but config.json says vocab_size {n_vocab}")
    n_fillers = n_vocab - len(pieces)
    return (
        [_last(piece, 1, b"").decode() for piece in pieces] + [f"[PAD{i}]" for i in range(len(pieces), n_vocab)],
        [TokenType(_last(piece, 3, 1)) for piece in pieces] + [TokenType.UNUSED] * n_fillers,
        [struct.unpack("<f", _last(piece, 2, bytes(4)))[0] for piece in pieces] + [_FILLER_SCORE] * n_fillers,
    )


def _add_tokens(
    folder: Path,
    tokenizer_config: Mapping[str, Any],
    tokens: list[str],
    types: list[TokenType],
    scores: list[float],
) -> None:
    """Put the tokens in that were added to the model, into unused places or over its own."""
    path = folder / "added_tokens.json"
    added: dict[object, object] = {i: {"content": text} for text, i in read_json(path, required=False).items()}
    decoder = tokenizer_config.get("added_tokens_decoder") or {}
    if isinstance(decoder, dict):
        path = folder / "tokenizer_config.json"
        added |= {int(i) if i.isdecimal() else i: entry for i, entry in decoder.items()}
    for i, entry in added.items():
        text = entry.get("content") if isinstance(entry, dict) else None
        if type(i) is not int or not isinstance(entry, dict) or not isinstance(text, str) or not text:
            raise CheckpointError(f"{path}: the entry of added token {i!r} is malformed")
        if not 0 <= i < len(tokens):
            raise CheckpointError(f"{path}: token {text!r} has id {i}, but config.json says vocab_size {len(tokens)}")
        if text == tokens[i] and types[i] in {TokenType.UNKNOWN, TokenType.CONTROL}:
            continue
        refuse_flags(path, text, entry)
        tokens[i], scores[i] = text, _ADDED_SCORE
        special = entry.get("special") or _SPECIAL.fullmatch(text)
        types[i] = TokenType.CONTROL if special else TokenType.USER_DEFINED


def _fields(message: bytes) -> _Fields:
    """The fields of a protocol buffer, which the sentencepiece package has read before: bytes or numbers."""
    fields: _Fields = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            fields.setdefault(number, []).append(varint())
            continue
        size = {1: 8, 5: 4}[wire] if wire in {1, 5} else varint()
        fields.setdefault(number, []).append(message[at : at + size])
        at += size
    return fields


def _last(fields: _Fields, number: int, default: _T) -> _T:
    """A field's last value, which is the one that counts; ``default`` where it is absent or of another kind."""
    values = [value for value in fields.get(number, []) if isinstance(value, type(default))]
    return values[-1] if values else default
