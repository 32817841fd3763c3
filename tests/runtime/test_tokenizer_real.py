"""The real Command-R+ tokenizer: ids equal to `tokenizers` on its own tokenizer.json, whoever wrote the GGUF file."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import tokenizers

import corpus
import data
import models
import shapes
from commandr_gguf import GGUFFile, Tokenizer

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def reference() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(data.real_tokenizer_dir() / "tokenizer.json"))


@pytest.fixture(scope="module")
def our_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint with the real tokenizer and very small layers."""
    folder = tmp_path_factory.mktemp("real")
    checkpoint = shapes.write_checkpoint(
        folder / "checkpoint",
        "gqa",
        n_layers=1,
        tokenizer=data.real_tokenizer_dir(),
        vocab_size=data.REAL_VOCAB_SIZE,
        eos_token_id=data.REAL_EOS_TOKEN_ID,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return models.convert(checkpoint, folder / "real.gguf", "Q8_0")


@pytest.fixture(scope="module", params=["ours", "llama.cpp's"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "ours":
        return Tokenizer.from_gguf(request.getfixturevalue("our_file"))
    return Tokenizer.from_gguf(data.llama_cpp_vocab())


@pytest.mark.parametrize("text", corpus.texts().values(), ids=corpus.texts().keys())
def test_ids_equal_tokenizers(tokenizer: Tokenizer, reference: tokenizers.Tokenizer, text: str) -> None:
    ids = reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=False)


def test_control_tokens(tokenizer: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    added = {token.content: i for i, token in reference.get_added_tokens_decoder().items()}
    assert tokenizer.special_ids == added
    text = "".join(f"{token} text{token}" for token in added)
    assert tokenizer.encode(text, parse_special=True) == reference.encode(text, add_special_tokens=False).ids
    assert not set(tokenizer.encode(text)) & set(added.values())
    assert tokenizer.bos_id == 5
    assert tokenizer.end_of_generation == {6, 7, data.REAL_EOS_TOKEN_ID}


def test_every_token_decodes_alike(tokenizer: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    n = reference.get_vocab_size(with_added_tokens=True)
    expected = reference.decode_batch([[i] for i in range(n)], skip_special_tokens=False)
    assert [tokenizer.decode([i]) for i in range(n)] == expected


def test_random_ids_decode_alike_in_a_stream(tokenizer: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    ids = np.random.default_rng(0).integers(0, 255000, 20000).tolist()
    decoder = tokenizer.decoder(skip_special=False)
    streamed = "".join(decoder.push(token) for token in ids) + decoder.flush()
    assert streamed == tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=False)


def test_construction_is_fast() -> None:
    started = time.perf_counter()
    with GGUFFile(data.llama_cpp_vocab()) as file:
        tokenizer = Tokenizer.from_gguf(file)
    read = time.perf_counter() - started
    assert tokenizer.encode("first") == tokenizer.encode("first")
    # 0.3 s and 0.8 s where this was written; reading 500,000 strings one by one would take 14 s.
    assert read < 3
    assert time.perf_counter() - started < 8
