"""Makes the tokenizer of the embedded checkpoint: Command-R's pipeline with a vocabulary of its own text.

NFC, single digits, the byte-level split of GPT-2, then BPE, with Cohere's special and turn tokens, as in the published
tokenizers. One thing is different: a space is merged with whole words in lower case only. So a name, which has a
capital, is the same tokens behind a space, a quote or a citation tag, and a small model can copy it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from commandr_gguf.demo.data import words
from commandr_gguf.demo.templates import CHAT_TEMPLATES

VOCAB_SIZE = 4096
CONTEXT_LENGTH = 2048
SPECIAL_TOKENS = ("<PAD>", "<UNK>", "<CLS>", "<SEP>", "<MASK_TOKEN>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<EOP_TOKEN>")
TURN_TOKENS = (
    "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|YES_TOKEN|>",
    "<|NO_TOKEN|>",
    "<|GOOD_TOKEN|>",
    "<|BAD_TOKEN|>",
    "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
    *(f"<|USER_{i}_TOKEN|>" for i in range(10)),
    *(f"<|EXTRA_{i}_TOKEN|>" for i in range(10)),
)
_N_INNER = 2900
"""Merges inside of words; the rest of the vocabulary is merges with a space."""
_SPACE, _NEWLINE = "\u0120", "\u010a"  # as the byte-level alphabet writes them
_WHITESPACE_MERGES = (
    (_SPACE, _SPACE),
    (_SPACE * 2, _SPACE),
    (_SPACE * 2, _SPACE * 2),
    (_SPACE * 4, _SPACE * 4),
    (_SPACE * 4, _SPACE * 3),
    (_SPACE * 8, _SPACE * 3),
    (_NEWLINE, _SPACE * 3),
    (_NEWLINE, _SPACE * 7),
    (_NEWLINE, _SPACE * 11),
    (_NEWLINE, _NEWLINE),
)


def write_tokenizer(folder: Path, texts: Sequence[str]) -> None:
    """Train on `texts`, which hold no special tokens, and write tokenizer.json and tokenizer_config.json."""
    inner = _inner_merges(texts)
    merges = [*inner, *_WHITESPACE_MERGES, *_space_merges(texts, inner)]
    _dump(folder / "tokenizer.json", _tokenizer_json(merges))
    read = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for token in TURN_TOKENS:
        if read.token_to_id(token) != turn_token_id(token):
            raise ValueError(f"{token} has the id {read.token_to_id(token)} instead of {turn_token_id(token)}")
    config = _tokenizer_config()
    config["chat_template"] = [{"name": name, "template": text} for name, text in CHAT_TEMPLATES.items()]
    _dump(folder / "tokenizer_config.json", config)


def _alphabet() -> list[str]:
    """The 256 characters that stand for the bytes, in the published order: printable bytes stand for themselves."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _inner_merges(texts: Iterable[str]) -> list[tuple[str, str]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    alone = pre_tokenizers.Split(Regex(f"[{_SPACE}{_NEWLINE}]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*_pre_tokenizers(), alone])
    trainer = trainers.BpeTrainer(
        vocab_size=256 + _N_INNER, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _space_merges(texts: Iterable[str], inner: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """A space with each of the most common words that are one token and can begin no name or value."""
    values = {
        word.lower()
        for part in (words.FIRST_NAMES, words.LAST_NAMES, words.PLACES, words.MATERIALS, words.COLORS, words.FOODS,
                     words.PRODUCTS, words.OCCUPATIONS, words.LANGUAGES, words.MONTHS, words.WEEKDAYS,
                     words.TOPICS_LIST)
        for value in part
        for word in value.split()
    }  # fmt: skip
    whole = {left + right for left, right in inner} | set(_alphabet())
    split = pre_tokenizers.Sequence(_pre_tokenizers())
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in split.pre_tokenize_str(text) if piece.startswith(_SPACE))
    n_free = VOCAB_SIZE - len(SPECIAL_TOKENS) - 256 - len(inner) - len(_WHITESPACE_MERGES) - len(TURN_TOKENS)
    found = [
        piece[1:]
        for piece, count in counts.most_common()
        # Not those with a capital: "The" may begin a name, which would then differ behind a space.
        if count >= 5 and piece[1:] in whole and piece[1:] not in values and not piece[1:2].isupper()
    ]
    return [(_SPACE, word) for word in found[:n_free]]


def _pre_tokenizers() -> list[Any]:
    return [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
    ]


def _vocabulary(merges: Iterable[tuple[str, str]]) -> dict[str, int]:
    pieces = [left + right for left, right in merges]
    tokens = list(dict.fromkeys([*SPECIAL_TOKENS, *_alphabet(), *pieces]))
    n_unused = VOCAB_SIZE - len(TURN_TOKENS) - len(tokens)
    if n_unused < 0:
        raise ValueError(f"{len(tokens)} tokens and {len(TURN_TOKENS)} turn tokens are more than {VOCAB_SIZE}")
    # The turn tokens are the last ids. Without a gap before them: tokenizers would give them other ids.
    return {token: i for i, token in enumerate([*tokens, *(f"<|UNUSED_{i}|>" for i in range(n_unused))])}


def turn_token_id(token: str) -> int:
    """The id of one of TURN_TOKENS."""
    return VOCAB_SIZE - len(TURN_TOKENS) + TURN_TOKENS.index(token)


def _added_tokens() -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [{"id": i, "content": t, **flags, "special": True} for i, t in enumerate(SPECIAL_TOKENS)]
    # The published files mark all turn tokens but the end of a turn as not special.
    turns = [
        {"id": turn_token_id(t), "content": t, **flags, "special": t == "<|END_OF_TURN_TOKEN|>"} for t in TURN_TOKENS
    ]
    return special + turns


def _tokenizer_json(merges: list[tuple[str, str]]) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE(_vocabulary(merges), merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(_pre_tokenizers())
    tokenizer.decoder = decoders.ByteLevel()
    contents: dict[str, Any] = json.loads(tokenizer.to_str())
    contents["model"]["merges"] = [" ".join(merge) for merge in merges]
    contents["added_tokens"] = _added_tokens()
    bos = {"SpecialToken": {"id": "<BOS_TOKEN>", "type_id": 0}}
    contents["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<BOS_TOKEN>": {"id": "<BOS_TOKEN>", "ids": [5], "tokens": ["<BOS_TOKEN>"]}},
    }
    return contents


def _tokenizer_config() -> dict[str, Any]:
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in _added_tokens()
        },
        "bos_token": "<BOS_TOKEN>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|END_OF_TURN_TOKEN|>",
        "model_max_length": CONTEXT_LENGTH,
        "pad_token": "<PAD>",
        "tokenizer_class": "CohereTokenizer",
        "unk_token": None,
        "use_default_system_prompt": False,
    }


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
