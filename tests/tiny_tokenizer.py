"""A small tokenizer with the pipeline, special tokens and three chat templates of a Command-R checkpoint.

It is a working byte-level BPE tokenizer of 705 tokens: eight special tokens at 0..7, the 256 bytes, a dozen characters
that stand in the vocabulary as themselves (the real one has about 1,600), the pieces made by `tiny_merges.txt`, and
Cohere's 29 turn tokens at the end. `VOCAB_SIZE` rounds up, so that some ids of the embedding have no token, as in the
real checkpoints.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = (
    "<PAD>",
    "<UNK>",
    "<CLS>",
    "<SEP>",
    "<MASK_TOKEN>",
    "<BOS_TOKEN>",
    "<EOS_TOKEN>",
    "<EOP_TOKEN>",
)
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
WHOLE_CHARACTERS = ("\u200d", "‼", "⁉", "⃣", "™", "ℹ", "↔", "⌚", "⏩", "☀", "⭐", "🌍")
VOCAB_SIZE = 768
MERGES_FILE = Path(__file__).with_name("tiny_merges.txt")


def byte_characters() -> list[str]:
    """The 256 characters of the byte-level alphabet, in vocabulary order: printable bytes stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(0x100 + i) for i in range(len(others))]


def merges() -> list[str]:
    """The merge rules, "left right" each, the first ranked highest."""
    return MERGES_FILE.read_text(encoding="utf-8").split("\n")[:-1]


def vocabulary() -> dict[str, int]:
    """Every token but the turn tokens, with its id."""
    pieces = [rule.replace(" ", "") for rule in merges()]
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *byte_characters(), *WHOLE_CHARACTERS, *pieces])
    return {token: i for i, token in enumerate(tokens)}


def turn_token_id(token: str) -> int:
    """The id of one of TURN_TOKENS."""
    return len(vocabulary()) + TURN_TOKENS.index(token)


def _added_tokens() -> list[dict[str, Any]]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = [{"id": i, "content": t, **flags, "special": True} for i, t in enumerate(SPECIAL_TOKENS)]
    # The published files mark turn tokens as not special; whoever reads them has to know better.
    turns = [{"id": turn_token_id(t), "content": t, **flags, "special": False} for t in TURN_TOKENS]
    return special + turns


def _post_processor() -> dict[str, Any]:
    bos = {"SpecialToken": {"id": "<BOS_TOKEN>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    end = [{"SpecialToken": {"id": t, "type_id": 1}} for t in ("<|END_OF_TURN_TOKEN|>", "<EOS_TOKEN>")]
    ids = {"<BOS_TOKEN>": 5, "<EOS_TOKEN>": 6, "<|END_OF_TURN_TOKEN|>": turn_token_id("<|END_OF_TURN_TOKEN|>")}
    return {
        "type": "TemplateProcessing",
        "single": [bos, first, *end],
        "pair": [bos, first, second, *end],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in ids.items()},
    }


def tokenizer_json() -> dict[str, Any]:
    """The contents of tokenizer.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": _post_processor(),
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary(),
            "merges": merges(),
        },
    }


# The scripts of the oracles run where the package is not installed, and take this one file of it.
_TEMPLATES_FILE = Path(__file__).parents[1] / "commandr_gguf" / "demo" / "templates.py"
CHAT_TEMPLATES: dict[str, str] = runpy.run_path(str(_TEMPLATES_FILE))["CHAT_TEMPLATES"]
"""Those of the embedded checkpoint."""


def tokenizer_config() -> dict[str, Any]:
    """The contents of tokenizer_config.json without the chat templates."""
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
        "legacy": True,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "<PAD>",
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "CohereTokenizer",
        "unk_token": None,
        "use_default_system_prompt": False,
    }


def write_tokenizer(folder: Path, *, templates_as_files: bool = False) -> None:
    """Write tokenizer.json, tokenizer_config.json and the chat templates into `folder`.

    The templates stand in tokenizer_config.json, as in the published checkpoints, or, with `templates_as_files`, in
    chat_template.jinja and additional_chat_templates/*.jinja, as transformers 5 saves them.
    """
    config = tokenizer_config()
    if templates_as_files:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATES["default"], encoding="utf-8")
        others = folder / "additional_chat_templates"
        others.mkdir(exist_ok=True)
        for name in ("tool_use", "rag"):
            (others / f"{name}.jinja").write_text(CHAT_TEMPLATES[name], encoding="utf-8")
    else:
        config["chat_template"] = [{"name": name, "template": text} for name, text in CHAT_TEMPLATES.items()]
    _dump(folder / "tokenizer.json", tokenizer_json())
    _dump(folder / "tokenizer_config.json", config)


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
