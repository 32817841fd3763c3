"""tokenizer.json to the tokens, token types, merges and special ids of a GGUF file.

GGUF says which pre-tokenizer to use by one name, ``command-r``. So the file must be what that name stands for (NFC,
single digits, the GPT-2 byte-level split, BPE); anything else is refused, naming what differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer

from convert.checkpoint import read_json
from convert.errors import CheckpointError, UnsupportedError

MODEL, PRE_TOKENIZER = "gpt2", "command-r"

SPECIAL_KINDS = ("bos", "eos", "unk", "sep", "pad", "mask")  # those that a GGUF file has keys for


@dataclass(frozen=True)
class Vocab:
    """``tokens`` and ``types`` have n_vocab entries; ``merges`` are pairs joined by a space, best first."""

    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    special_ids: dict[str, int]  # of SPECIAL_KINDS
    add_bos: bool
    add_eos: bool


def read_vocab(folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], n_vocab: int) -> Vocab:
    """The vocabulary of a checkpoint, padded with unused tokens to ``n_vocab``.

    Raises UnsupportedError when tokenizer.json is not of the Command-R kind, CheckpointError when it is damaged or
    does not fit the model.
    """
    path = folder / "tokenizer.json"
    tokenizer = read_json(path)
    _check_kind(path, tokenizer)
    try:
        Tokenizer.from_file(str(path))  # the reference implementation's opinion on everything not checked here
    except Exception as error:  # it raises nothing more precise
        raise CheckpointError(f"{path} is not a valid tokenizer: {error}") from error

    added = _added_tokens(path, tokenizer)
    tokens, types = _tokens(path, tokenizer["model"]["vocab"], added, n_vocab)
    return Vocab(
        tokens=tokens,
        types=types,
        merges=_merges(path, tokenizer["model"]["merges"]),
        special_ids=read_special_ids(
            config, tokenizer_config, {entry["content"]: i for i, entry in added.items()}, n_vocab
        ),
        # What CohereTokenizer does when its config does not say; transformers 5 no longer writes these two keys. The
        # template in the published tokenizer.json also appends two end tokens: no program applies that.
        add_bos=read_flag(tokenizer_config, "add_bos_token", default=True),
        add_eos=read_flag(tokenizer_config, "add_eos_token", default=False),
    )


def _check_kind(path: Path, tokenizer: Mapping[str, Any]) -> None:
    pre_tokenizers = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    model, decoder = tokenizer.get("model"), tokenizer.get("decoder")
    model = model if isinstance(model, dict) else {}
    decoder = decoder if isinstance(decoder, dict) else {}
    normalizers = [step.get("type") for step in _steps(tokenizer.get("normalizer"), "normalizers")]
    steps = [step.get("type") for step in pre_tokenizers]
    digits, byte_level = pre_tokenizers if steps == ["Digits", "ByteLevel"] else ({}, {})
    checks: list[tuple[str, object, object]] = [
        ("normalizer", normalizers, ["NFC"]),
        ("pre_tokenizer", steps, ["Digits", "ByteLevel"]),
        ("pre_tokenizer Digits individual_digits", digits.get("individual_digits"), True),
        ("pre_tokenizer ByteLevel add_prefix_space", byte_level.get("add_prefix_space"), False),
        ("pre_tokenizer ByteLevel use_regex", byte_level.get("use_regex", True), True),
        ("decoder", decoder.get("type"), "ByteLevel"),
        ("model", model.get("type"), "BPE"),
        ("model byte_fallback", bool(model.get("byte_fallback")), False),
        ("model ignore_merges", bool(model.get("ignore_merges")), False),
        ("model dropout", model.get("dropout") or None, None),
        ("model continuing_subword_prefix", model.get("continuing_subword_prefix") or "", ""),
        ("model end_of_word_suffix", model.get("end_of_word_suffix") or "", ""),
    ]
    for what, found, expected in checks:
        if found != expected:
            raise UnsupportedError(f"{path}: {what} is {json.dumps(found)}, Command-R has {json.dumps(expected)}")
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise CheckpointError(f"{path}: the model lacks its vocab or its merges")


def _steps(value: object, key: str) -> list[dict[str, Any]]:
    """The parts of a normalizer or pre-tokenizer; one that is no Sequence has one part, itself."""
    if not isinstance(value, dict):
        return []
    parts = value.get(key) if value.get("type") == "Sequence" else [value]
    return [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []


def _added_tokens(path: Path, tokenizer: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    added: dict[int, dict[str, Any]] = {}
    for entry in tokenizer.get("added_tokens") or []:
        text = entry["content"]  # the reference implementation has checked the presence of keys
        refuse_flags(path, text, entry)
        added[entry["id"]] = entry
    return added


def refuse_flags(path: Path, text: str, entry: Mapping[str, Any]) -> None:
    """Raises UnsupportedError for an added token that takes the spaces beside it, or words only."""
    for flag in ("single_word", "lstrip", "rstrip"):
        if entry.get(flag):
            raise UnsupportedError(f"{path}: added token {text!r} has {flag}, which a GGUF file cannot express")


def _tokens(
    path: Path, vocab: Mapping[str, int], added: Mapping[int, Mapping[str, Any]], n_vocab: int
) -> tuple[list[str], list[TokenType]]:
    tokens = [f"[PAD{i}]" for i in range(n_vocab)]
    types = [TokenType.UNUSED] * n_vocab

    def place(text: str, i: int, kind: TokenType) -> None:
        if not 0 <= i < n_vocab:
            raise CheckpointError(f"{path}: token {text!r} has id {i}, but config.json says vocab_size {n_vocab}")
        if types[i] is not TokenType.UNUSED and tokens[i] != text:
            raise CheckpointError(f"{path}: tokens {tokens[i]!r} and {text!r} have the same id {i}")
        tokens[i], types[i] = text, kind

    for text, i in vocab.items():
        place(text, i, TokenType.NORMAL)
    for i, entry in added.items():
        text = entry["content"]
        # The published file does not mark the turn markers as special, though they are.
        special = entry.get("special") or (text.startswith("<|") and text.endswith("|>"))
        place(text, i, TokenType.CONTROL if special else TokenType.USER_DEFINED)
    return tokens, types


def _merges(path: Path, merges: Iterable[object]) -> list[str]:
    joined = []
    for merge in merges:
        # tokenizers 0.20 began to write pairs where it wrote "left right" before.
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) and " " not in p for p in pair):
            raise CheckpointError(f"{path}: merge {merge!r} is not a pair of tokens")
        joined.append(f"{pair[0]} {pair[1]}")
    return joined


def read_special_ids(
    config: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    by_text: Mapping[str, int],
    n_vocab: int,
    default: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Ids of SPECIAL_KINDS: the tokenizer's opinion first, as text; then the config's, as an id; then ``default``."""
    ids: dict[str, int] = {}
    for kind in SPECIAL_KINDS:
        text = tokenizer_config.get(f"{kind}_token")
        text = text.get("content") if isinstance(text, dict) else text
        i = config.get(f"{kind}_token_id")
        i = i[0] if isinstance(i, list) and i else i
        i = by_text.get(text, i) if isinstance(text, str) else i
        i = (default or {}).get(kind) if i is None else i
        if i is None:
            continue
        if type(i) is not int or not 0 <= i < n_vocab:
            raise CheckpointError(f"config.json: {kind}_token_id is {i!r}, not in 0..{n_vocab - 1}")
        ids[kind] = i
    for kind in ("bos", "eos"):
        if kind not in ids:
            raise CheckpointError(f"neither tokenizer_config.json nor config.json names the {kind} token")
    return ids


def read_flag(tokenizer_config: Mapping[str, Any], key: str, *, default: bool) -> bool:
    """A key that is true or false; ``default`` where it is neither."""
    value = tokenizer_config.get(key)
    return value if isinstance(value, bool) else default
