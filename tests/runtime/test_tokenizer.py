"""The tokenizer that is rebuilt from a GGUF file's keys, on the tiny vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import corpus
import models
import tiny_tokenizer
from commandr_gguf import ArgumentError, FormatError, Tokenizer, UnsupportedError

MARKERS = (*tiny_tokenizer.SPECIAL_TOKENS, *tiny_tokenizer.TURN_TOKENS)
TOKENS = [*tiny_tokenizer.vocabulary(), *tiny_tokenizer.TURN_TOKENS]


def build(**options: object) -> Tokenizer:
    defaults: dict[str, object] = {"bos_id": 5, "eos_id": tiny_tokenizer.turn_token_id("<|END_OF_TURN_TOKEN|>")}
    return Tokenizer(TOKENS, tiny_tokenizer.merges(), **(defaults | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(models.gguf("gqa"))


@pytest.fixture(scope="module")
def reference() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(tiny_tokenizer.tokenizer_json()))


@pytest.mark.parametrize("text", corpus.texts().values(), ids=corpus.texts().keys())
def test_ids_equal_the_reference_and_decode_alike(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, text: str
) -> None:
    ids = reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode(text, parse_special=True) == ids
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=False)


@given(st.lists(st.one_of(st.sampled_from(MARKERS), st.text(max_size=8)), max_size=8).map("".join))
def test_parsed_ids_equal_the_reference(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        return
    expected = _REFERENCE.encode(text, add_special_tokens=False).ids
    assert _TOKENIZER.encode(text, parse_special=True) == expected


@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=30))
def test_decoding_equals_the_reference(ids: list[int]) -> None:
    assert _TOKENIZER.decode(ids) == _REFERENCE.decode(ids, skip_special_tokens=False)


@given(st.lists(st.one_of(st.sampled_from(MARKERS), st.text(st.characters(codec="utf-8"), max_size=8))).map("".join))
def test_plain_text_never_becomes_a_control_token(text: str) -> None:
    ids = _TOKENIZER.encode(text)
    assert not any(_TOKENIZER.is_special(token) for token in ids)


_TOKENIZER = build()
_REFERENCE = tokenizers.Tokenizer.from_str(json.dumps(tiny_tokenizer.tokenizer_json()))


def test_control_tokens_are_known_by_mark_and_by_spelling() -> None:
    normal = [1] * len(TOKENS)
    for mark in (1, 3, 4):
        types = [mark if token in MARKERS else 1 for token in TOKENS]
        assert build(token_types=types).special_ids == {token: TOKENS.index(token) for token in MARKERS}
    user_defined = normal.copy()
    user_defined[300] = 4
    assert TOKENS[300] in build(token_types=user_defined).special_ids


def test_rows_without_a_token_are_no_control_tokens() -> None:
    padded = Tokenizer(
        [*TOKENS, "[PAD705]"], tiny_tokenizer.merges(), token_types=[1] * len(TOKENS) + [4], bos_id=5, eos_id=6
    )
    assert "[PAD705]" not in padded.special_ids
    assert padded.encode("[PAD705]", parse_special=True) == _TOKENIZER.encode("[PAD705]")
    assert padded.decode([705]) == _REFERENCE.decode([705])


def test_begin_tokens() -> None:
    hello = _TOKENIZER.encode("Hello")
    assert _TOKENIZER.encode("Hello", add_special=True) == [5, *hello]
    assert _TOKENIZER.encode("<BOS_TOKEN>Hello", add_special=True, parse_special=True) == [5, *hello]
    assert _TOKENIZER.encode("", add_special=True) == [5]
    assert build(add_bos=False).encode("Hello", add_special=True) == hello


def test_end_of_generation() -> None:
    ends = {6, 7, tiny_tokenizer.turn_token_id("<|END_OF_TURN_TOKEN|>")}
    assert build().end_of_generation == ends
    assert build(eos_id=None).end_of_generation == ends
    assert build(eos_id=9).end_of_generation == ends | {9}


def test_special_tokens_can_be_left_out_of_text() -> None:
    ids = _TOKENIZER.encode("<BOS_TOKEN>a<|END_OF_TURN_TOKEN|>b", parse_special=True)
    assert _TOKENIZER.decode(ids) == "<BOS_TOKEN>a<|END_OF_TURN_TOKEN|>b"
    assert _TOKENIZER.decode(ids, skip_special=True) == "ab"


@given(st.text(st.characters(codec="utf-8")))
def test_stream_of_single_tokens_gives_the_same_text_in_whole_characters(text: str) -> None:
    ids = _TOKENIZER.encode(text)
    decoder = _TOKENIZER.decoder()
    pieces = [decoder.push(token) for token in ids]
    assert decoder.flush() == ""
    assert "".join(pieces) == _TOKENIZER.decode(ids)
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def test_stream_ends_an_unfinished_character_with_the_replacement_character() -> None:
    decoder = _TOKENIZER.decoder()
    first, *_ = "🌎".encode()
    token = TOKENS.index(
        next(c for c in tiny_tokenizer.byte_characters() if _TOKENIZER.token_bytes(TOKENS.index(c)) == bytes([first]))
    )
    assert decoder.push(token) == ""
    assert decoder.flush() == "\ufffd"


@pytest.mark.parametrize("token", [-1, len(TOKENS), 2**40])
def test_ids_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(ArgumentError, match="outside the 705 tokens"):
        _TOKENIZER.decode([token])


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(ArgumentError, match="surrogate"):
        _TOKENIZER.encode("a\ud800")


def test_contradicting_keys_are_refused() -> None:
    with pytest.raises(FormatError, match="token_type has 1 elements for 705 tokens"):
        build(token_types=[1])
    with pytest.raises(FormatError, match="bos_token_id is 705"):
        build(bos_id=705)
    with pytest.raises(FormatError, match=r"merges do not fit"):
        Tokenizer(TOKENS, ["ab cd"]).encode("a")
    with pytest.raises(FormatError, match="lacks 256 of the 256"):
        Tokenizer(["a b"], []).encode("a")


def write_gguf(path: Path, **keys: object) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, "command-r")
    values: dict[str, object] = {
        "model": "gpt2",
        "pre": "command-r",
        "tokens": TOKENS,
        "merges": tiny_tokenizer.merges(),
    }
    for key, value in (values | keys).items():
        if isinstance(value, list):
            writer.add_array(f"tokenizer.ggml.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"tokenizer.ggml.{key}", value)
        elif isinstance(value, bool):
            writer.add_bool(f"tokenizer.ggml.{key}", value)
        elif isinstance(value, int):
            writer.add_uint32(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_with_few_keys_are_read(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(write_gguf(tmp_path / "few.gguf", pre=None))
    assert tokenizer.encode("Hello world") == _TOKENIZER.encode("Hello world")
    assert tokenizer.bos_id is None
    assert tokenizer.encode("a", add_special=True) == tokenizer.encode("a")


def test_no_end_token_after_a_prompt(tmp_path: Path) -> None:
    """llama.cpp's converter asks for <EOS_TOKEN> after every text; a prompt is to be continued."""
    keys = {"bos_token_id": 5, "eos_token_id": 6, "add_bos_token": True, "add_eos_token": True}
    tokenizer = Tokenizer.from_gguf(write_gguf(tmp_path / "eos.gguf", **keys))
    assert tokenizer.encode("Hello", add_special=True) == [5, *_TOKENIZER.encode("Hello")]
    assert tokenizer.end_of_generation >= {6, *_TOKENIZER.end_of_generation}


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"model": "bert"}, UnsupportedError, "tokenizer.ggml.model is 'bert'"),
        ({"pre": "llama-bpe"}, UnsupportedError, "tokenizer.ggml.pre is 'llama-bpe'"),
        ({"merges": None}, FormatError, "tokenizer.ggml.merges is missing"),
        ({"tokens": "text"}, FormatError, "tokenizer.ggml.tokens is not an array"),
        ({"tokens": [1, 2]}, FormatError, "tokenizer.ggml.tokens is not an array of str"),
        ({"token_type": [1]}, FormatError, "token_type has 1 elements for 705 tokens"),
    ],
)
def test_other_tokenizers_are_refused(
    tmp_path: Path, keys: dict[str, object], error: type[Exception], message: str
) -> None:
    path = write_gguf(tmp_path / "bad.gguf", **keys)
    with pytest.raises(error, match=message) as caught:
        Tokenizer.from_gguf(path)
    assert "bad.gguf" in str(caught.value)


@given(
    st.text(alphabet=st.sampled_from(list("ab C9.'\n\t\r\u0301\u0085\x1c\u00a8éß中ع")), min_size=1, max_size=200),
    st.integers(1, 20),
)
def test_parts_of_a_text_have_the_tokens_of_the_whole(text: str, n_characters: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("commandr_gguf.tokenizer._PART", n_characters)
        parts = list(_TOKENIZER.encode_parts(text))
    assert [token for part in parts for token in part] == _TOKENIZER.encode(text)


def test_a_long_text_is_encoded_in_parts() -> None:
    parts = list(_TOKENIZER.encode_parts("The harbor of Velmora. " * 5000))
    assert len(parts) == 8
    assert max(map(len, parts)) < 10_000
