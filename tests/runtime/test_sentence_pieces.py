"""Tokenizers of SentencePiece vocabularies, beside the sentencepiece package with the models they were made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType

import corpus
import spm_models
from commandr_gguf.constraint import ConstraintEngine
from commandr_gguf.errors import FormatError, UnsupportedError
from commandr_gguf.tokenizer import Tokenizer

START, END, USER = spm_models.TURNS
SETTINGS: dict[str, dict[str, Any]] = {
    "identity": {},
    "no prefix": {"add_dummy_prefix": False},
    "nmt_nfkc": {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    "symbols": {"user_defined_symbols": ("\n", "aber", "\u2581\u2581", "été")},
    "digits": {"split_digits": True, "allow_whitespace_only_pieces": True},
}


def tokenizer(folder: Path, model: bytes, **changes: Any) -> Tokenizer:
    vocabulary = dataclasses.replace(spm_models.vocab(folder, model, n_fillers=5), **changes)
    return Tokenizer.from_gguf(spm_models.write_gguf(folder / "vocab.gguf", vocabulary))


@pytest.fixture(params=spm_models.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_text_is_split_as_by_the_package(tmp_path: Path, kind: str, settings: str) -> None:
    model = spm_models.train(kind, **SETTINGS[settings])
    ours, theirs = tokenizer(tmp_path, model), spm_models.processor(model)
    for name, text in corpus.texts().items():
        assert ours.encode(text) == theirs.encode(text), name


@pytest.mark.parametrize("settings", ["identity", "no prefix", "symbols"])
def test_texts_come_back_whole_at_once_and_as_a_stream(tmp_path: Path, kind: str, settings: str) -> None:
    ours = tokenizer(tmp_path, spm_models.train(kind, **SETTINGS[settings]))
    for name, text in corpus.texts().items():
        ids = ours.encode(text)
        assert ours.decode(ids) == text, name
        decoder = ours.decoder()
        assert "".join(map(decoder.push, ids)) + decoder.flush() == text, name


def test_a_stream_never_holds_a_part_of_a_character(tmp_path: Path, kind: str) -> None:
    ours = tokenizer(tmp_path, spm_models.train(kind))
    ids = ours.encode("x𪚥y")
    assert [ours.token_bytes(token) for token in ids][-5:-1] == [b"\xf0", b"\xaa", b"\x9a", b"\xa5"]
    decoder = ours.decoder()
    assert [decoder.push(token) for token in ids][-5:-1] == ["", "", "", "𪚥"]


def test_the_space_before_a_text_is_no_part_of_it(tmp_path: Path, kind: str) -> None:
    ours = tokenizer(tmp_path, spm_models.train(kind))
    ids = ours.encode("lighthouse")
    assert ours.token_bytes(ids[0]).startswith(b" ")
    for after, text in ((None, "lighthouse"), (ours.special_ids[USER], "lighthouse"), (ids[-1], " lighthouse")):
        decoder = ours.decoder(after=after)
        assert "".join(map(decoder.push, ids)) == text
    assert ours.decode(ours.encode(f"{USER}  two spaces{END}so", parse_special=True)) == f"{USER}  two spaces{END}so"


def test_text_inside_of_a_text_gets_no_space(tmp_path: Path, kind: str) -> None:
    ours = tokenizer(tmp_path, spm_models.train(kind, **SETTINGS["nmt_nfkc"]))
    for text in ("harbor", " harbor ", "  "):
        assert joined(ours, ours.encode(text, inside=True)) == text.encode()
    assert ours.encode(f"a{USER}a", parse_special=True, inside=True) == [
        *ours.encode("a", inside=True),
        ours.special_ids[USER],
        *ours.encode("a"),
    ]


def joined(ours: Tokenizer, ids: Iterable[int]) -> bytes:
    return b"".join(map(ours.token_bytes, ids))


def test_turn_tokens_come_from_templates_only(tmp_path: Path, kind: str) -> None:
    markers = ("<|SYSTEM_TOKEN|>", "[INST]")
    ours = tokenizer(tmp_path, spm_models.train(kind, user_defined_symbols=markers))
    for marker in (*spm_models.TURNS, *markers, "<s>", "</s>", "<unk>", "[PAD700]"):
        assert not any(map(ours.is_special, ours.encode(marker)))
        assert ours.decode(ours.encode(marker)) == marker
    for marker in (*spm_models.TURNS, *markers, "<s>"):
        assert ours.encode(marker, parse_special=True) == [ours.special_ids[marker]]
    assert ours.end_of_generation == {ours.special_ids[END]}


def test_tokens_of_bytes_and_rows_without_a_token_have_their_bytes(tmp_path: Path, kind: str) -> None:
    ours = tokenizer(tmp_path, spm_models.train(kind))
    single = [ours.token_bytes(token) for token in range(len(ours))]
    assert {bytes([byte]) for byte in range(256)} <= set(single)
    assert single[-5:] == [b""] * 5
    assert ours.token_bytes(ours.special_ids[USER]) == USER.encode()


def test_files_that_call_the_unknown_token_a_control_token_are_read(tmp_path: Path, kind: str) -> None:
    model = spm_models.train(kind)
    types = spm_models.vocab(tmp_path, model, n_fillers=5).types
    types = [TokenType.CONTROL if item is TokenType.UNKNOWN else item for item in types]
    ours = tokenizer(tmp_path, model, types=types)
    assert ours.encode("It's the harbor") == spm_models.processor(model).encode("It's the harbor")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scores": [0.0]}, "tokenizer.ggml.tokens, scores and token_type have"),
        ({"types": [9] * 10_000}, "token_type holds 9, which is no type"),
        ({"charsmap": b"\xff\xff\xff\xff"}, "no SentencePiece vocabulary"),
    ],
)
def test_damaged_vocabularies_are_an_error(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    model = spm_models.train("bpe")
    if "types" in changes:
        changes = {"types": changes["types"][: len(spm_models.vocab(tmp_path, model, n_fillers=5).tokens)]}
    with pytest.raises(FormatError, match=sentence):
        tokenizer(tmp_path, model, **changes).encode("a")


@pytest.mark.parametrize("text", ['{"name": "Straße", "n": 12}', '{"name": "東京 𪚥", "n": 0}'])
def test_a_grammar_allows_the_tokens_of_its_texts_and_no_others(tmp_path: Path, kind: str, text: str) -> None:
    ours = tokenizer(tmp_path, spm_models.train(kind))
    engine = ConstraintEngine(ours, len(ours))
    grammar = r'start: "{\"name\": \"" /[^"\\\x00-\x1f]*/ "\", \"n\": " /[0-9]+/ "}"'
    constraint = engine.constraint(grammar)
    for token in ours.encode(text, inside=True):
        allowed = constraint.mask()
        assert allowed[token // 32] >> (token % 32) & 1
        constraint.accept(token)
    fixed = engine.constraint(r'start: "{\"name\": \"Straße\"}"')
    forced = fixed.forced()
    assert joined(ours, forced) == '{"name": "Straße"}'.encode()
    wrong = ours.encode("x", inside=True)[0]
    assert not fixed.mask()[wrong // 32] >> (wrong % 32) & 1


def test_a_grammar_needs_tokens_of_bytes(tmp_path: Path) -> None:
    ours = tokenizer(tmp_path, spm_models.train("bpe", byte_fallback=False))
    with pytest.raises(UnsupportedError, match="no tokens of single bytes"):
        ConstraintEngine(ours, len(ours)).constraint('start: "a"')
