"""How a text is cut into chunks, and which of their tokens are scored."""

from __future__ import annotations

import numpy as np
import pytest

import models
from commandr_gguf import Tokenizer
from commandr_gguf.errors import ArgumentError
from commandr_gguf.quality.chunks import Chunks, chunk_bos, cut_text, n_scored

TEXT = "The harbor was built in 1912, and the lighthouse beside it in 1987. " * 8


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_gguf(models.gguf("gqa"))


def test_a_chunk_is_evaluated_behind_a_begin_token_and_scored_in_its_second_half() -> None:
    chunks = Chunks(np.arange(10, 26, dtype=np.int32).reshape(2, 8), bos_id=5)
    assert chunks.evaluated(1) == [5, 19, 20, 21, 22, 23, 24]
    assert chunks.first == 4
    assert chunks.targets(1).tolist() == [23, 24, 25]
    assert chunks.n_scored == 3


def test_a_chunk_of_odd_length_is_scored_from_below_its_middle() -> None:
    chunks = Chunks(np.arange(9, dtype=np.int32)[None], bos_id=None)
    assert chunks.evaluated(0) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert chunks.targets(0).tolist() == [5, 6, 7, 8]
    assert n_scored(9) == len(chunks.targets(0))


def test_the_text_is_tokenized_as_a_whole_and_its_rest_is_not_used(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT, add_special=True)
    chunks = cut_text(TEXT, tokenizer, 32)
    assert len(chunks) == len(ids) // 32
    assert len(ids) % 32
    assert chunks.tokens.ravel().tolist() == ids[: 32 * len(chunks)]
    assert chunks.bos_id == tokenizer.bos_id == ids[0]


def test_a_text_of_exactly_one_chunk_is_enough(tokenizer: Tokenizer) -> None:
    n = len(tokenizer.encode(TEXT, add_special=True))
    assert len(cut_text(TEXT, tokenizer, n)) == 1
    with pytest.raises(ArgumentError, match=f"has {n} tokens, fewer than a chunk of {n + 1}"):
        cut_text(TEXT, tokenizer, n + 1)


def test_one_newline_at_the_end_does_not_count(tokenizer: Tokenizer) -> None:
    n = len(tokenizer.encode(TEXT + "\n", add_special=True))
    assert len(cut_text(TEXT + "\n\n", tokenizer, n)) == 1
    with pytest.raises(ArgumentError, match="fewer than a chunk"):
        cut_text(TEXT + "\n", tokenizer, n)


def test_control_tokens_in_a_text_are_plain_text(tokenizer: Tokenizer) -> None:
    special = tokenizer.special_ids["<|END_OF_TURN_TOKEN|>"]
    chunks = cut_text("a <|END_OF_TURN_TOKEN|> b " * 9, tokenizer, 16)
    assert special not in chunks.tokens


def test_a_model_without_a_begin_token_gets_none() -> None:
    assert chunk_bos(Tokenizer(["a", "b"], [], bos_id=1, add_bos=False)) is None
    assert Chunks(np.arange(8, dtype=np.int32)[None], None).evaluated(0)[0] == 0


@pytest.mark.parametrize("n_ctx", [-1, 0, 7])
def test_chunks_too_small_for_a_standard_error_are_refused(n_ctx: int, tokenizer: Tokenizer) -> None:
    with pytest.raises(ArgumentError, match="n_ctx must be 8 or more"):
        cut_text(TEXT, tokenizer, n_ctx)


def test_the_first_chunks_can_be_taken() -> None:
    chunks = Chunks(np.arange(24, dtype=np.int32).reshape(3, 8), 5)
    assert chunks.limit(2).tokens.tolist() == chunks.tokens[:2].tolist()
    assert len(chunks.limit(None)) == len(chunks.limit(9)) == 3
    with pytest.raises(ArgumentError, match="must be 1 or more"):
        chunks.limit(0)
