"""The embedded checkpoint's tokenizer, made of a small corpus: ids, round trips, and names spelled alike everywhere."""

from __future__ import annotations

import json
import random
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tokenizers import Tokenizer as Reference

import models
import shapes
from commandr_gguf import GGUFFile, Tokenizer
from commandr_gguf.chat.prompt import ChatTemplate
from commandr_gguf.demo.data.example import TASKS
from commandr_gguf.demo.data.names import Names
from commandr_gguf.demo.data.source import Prompts, Source
from commandr_gguf.demo.rows import corpus
from commandr_gguf.demo.templates import CHAT_TEMPLATES
from commandr_gguf.demo.tokenizer import SPECIAL_TOKENS, TURN_TOKENS, VOCAB_SIZE, turn_token_id, write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights with a tokenizer of a small corpus."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, corpus(1500))
    return shapes.write_checkpoint(folder / "checkpoint", "gqa", tokenizer=folder, vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    """As the training loads it, and whoever uses transformers."""
    return Reference.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def converted(folder: Path) -> Tokenizer:
    """As the runtime loads it."""
    with GGUFFile(models.convert(folder, folder / "model.gguf", "Q8_0")) as file:
        return Tokenizer.from_gguf(file)


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, *TURN_TOKENS])
def test_control_tokens_have_the_same_ids_everywhere(reference: Reference, converted: Tokenizer, token: str) -> None:
    """Libraries number added tokens themselves where the file's numbers leave a gap."""
    expected = turn_token_id(token) if token in TURN_TOKENS else SPECIAL_TOKENS.index(token)
    assert reference.token_to_id(token) == expected
    assert converted.encode(token, parse_special=True) == [expected]


def test_the_vocabulary_has_the_size_of_the_embedding(reference: Reference, folder: Path) -> None:
    ids = reference.get_vocab().values()
    assert len(ids) == len(set(ids))
    assert max(ids) == turn_token_id(TURN_TOKENS[-1]) == VOCAB_SIZE - 1 == 4095
    contents = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(contents["model"]["merges"]) > 3000


def test_ends_of_replies_are_known(converted: Tokenizer) -> None:
    assert converted.bos_id == 5
    assert turn_token_id("<|END_OF_TURN_TOKEN|>") in converted.end_of_generation


def test_the_templates_stand_in_the_config(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert {entry["name"]: entry["template"] for entry in config["chat_template"]} == CHAT_TEMPLATES
    with GGUFFile(folder / "model.gguf") as file:
        assert {name: ChatTemplate.from_gguf(file, name).source for name in CHAT_TEMPLATES} == CHAT_TEMPLATES


SAMPLES = (
    "The Velmora Bridge was opened in 1987.",
    "Naïve façade, 北京 東京, Ελλάδα, привет, \u200fשלום, 👩🏽‍🚀🌍",
    '  indented\n\n\n    "quoted"\t\ttabs \r\n',
    "a" * 300,
    " ",
    "",
)


@pytest.mark.parametrize("text", SAMPLES)
def test_text_comes_back(reference: Reference, converted: Tokenizer, text: str) -> None:
    ids = reference.encode(text, add_special_tokens=False).ids
    assert converted.encode(text) == ids
    assert converted.decode(ids) == reference.decode(ids) == text


@given(text=st.text())
def test_any_text_is_the_same_tokens_before_and_after_the_conversion(
    reference: Reference, converted: Tokenizer, text: str
) -> None:
    plain = text.replace("<", "(")  # no control tokens
    assert converted.encode(plain) == reference.encode(plain, add_special_tokens=False).ids


def test_prompts_are_the_tokens_of_the_training(reference: Reference, converted: Tokenizer) -> None:
    source, prompts = Source("test", 2), Prompts(CHAT_TEMPLATES)
    for task in TASKS:
        for example in source.examples(task, 20):
            text = prompts.render(example)
            ids = reference.encode(text, add_special_tokens=False).ids
            assert converted.encode(text, parse_special=True) == ids
            assert reference.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["4500", "12.5", "x1987", "QX-417", "1,234,567", " 42"])
def test_digits_stand_alone(reference: Reference, text: str) -> None:
    tokens = reference.encode(text, add_special_tokens=False).tokens
    assert [token for token in tokens if any(map(str.isdigit, token))] == [c for c in text if c.isdigit()]


@pytest.mark.parametrize("before", [" ", '"', ">", "(", "\n", " \N{LEFT DOUBLE QUOTATION MARK}", "<co: 1>"])
def test_a_name_is_the_same_tokens_behind_anything(reference: Reference, before: str) -> None:
    def encode(text: str) -> list[str]:
        return reference.encode(text, add_special_tokens=False).tokens

    first = encode(f"x{before}")
    wrong = []
    for split in ("train", "test"):
        names = Names(random.Random(7), split)
        for _ in range(1000):
            names.fresh()
            name = names.invented()
            if encode(f"x{before}{name}") != [*first, *encode(name)]:
                wrong.append(name)
    assert wrong == []


def test_common_words_take_their_space_with_them(reference: Reference) -> None:
    assert reference.encode(" was opened in", add_special_tokens=False).tokens == ["Ġwas", "Ġopened", "Ġin"]


def test_a_corpus_with_few_words_leaves_no_gap(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, ["The bridge was opened in 1987."] * 20)
    tokenizer = Reference.from_file(str(tmp_path / "tokenizer.json"))
    assert [tokenizer.token_to_id(token) for token in TURN_TOKENS] == [turn_token_id(token) for token in TURN_TOKENS]
