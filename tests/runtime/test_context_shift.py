"""With context_shift a reply goes on at the end of the context; what is kept is as if the rest had never been."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import pytest

import embedded
import models
from commandr_gguf import ArgumentError, CommandR, ContextFullError
from commandr_gguf.context_shift import ContextShift

PROMPT = [5, *np.random.default_rng(8).integers(8, 600, 39).tolist()]
N_CTX = 64


@pytest.fixture
def shifting() -> Iterator[CommandR]:
    with CommandR(models.gguf("gqa", "Q4_K_M"), n_ctx=N_CTX, n_threads=1, context_shift=True, n_keep=10) as opened:
        yield opened


def test_the_older_half_behind_the_pinned_tokens_is_dropped() -> None:
    tokens = array("i", range(11))
    assert ContextShift(3).drop_oldest(tokens)
    assert tokens.tolist() == [0, 1, 2, 7, 8, 9, 10]
    assert not ContextShift(6).drop_oldest(tokens)
    assert len(tokens) == 7


@pytest.mark.parametrize("speculate", [False, True])
def test_every_token_is_that_of_a_session_given_what_is_kept(shifting: CommandR, speculate: bool) -> None:
    history, expected = array("i", PROMPT), []
    with CommandR(models.gguf("gqa", "Q4_K_M"), n_ctx=2 * N_CTX, n_threads=1) as fresh:
        for _ in range(120):
            token = int(np.argmax(fresh.logits(history.tolist())[-1]))
            expected.append(token)
            history.append(token)
            if len(history) > N_CTX:
                ContextShift(10).drop_oldest(history)
    result = shifting.generate(PROMPT, max_tokens=120, temperature=0.0, speculate=speculate)
    assert result.tokens == expected
    assert result.finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (40, 120)
    assert shifting.session.seq_tokens(0)[:10] == PROMPT[:10]


def test_a_longer_prompt_is_shortened_in_the_middle(shifting: CommandR) -> None:
    prompt = PROMPT + PROMPT[1:]
    result = shifting.generate(prompt, max_tokens=1, temperature=0.0)
    assert result.usage.prompt_tokens == 79 - (79 - 10) // 2
    kept = prompt[:10] + prompt[10 + (79 - 10) // 2 :]
    assert shifting.session.seq_tokens(0)[: len(kept)] == kept


def test_what_is_pinned_must_fit() -> None:
    with CommandR(models.gguf("gqa"), n_ctx=N_CTX, n_threads=1, context_shift=True, n_keep=70) as model:
        with pytest.raises(ContextFullError):
            model.generate(PROMPT + PROMPT, max_tokens=1)
        assert model.generate(PROMPT, temperature=0.0).finish_reason == "length"


def test_without_it_the_context_ends_the_reply() -> None:
    with CommandR(models.gguf("gqa"), n_ctx=N_CTX, n_threads=1) as model:
        result = model.generate(PROMPT, temperature=0.0)
        assert (result.finish_reason, len(result.tokens)) == ("length", N_CTX - len(PROMPT) + 1)
        with pytest.raises(ContextFullError, match="80 tokens do not fit in the context of 64"):
            model.generate(PROMPT + PROMPT)


def test_the_preamble_of_a_chat_is_kept() -> None:
    system = {"role": "system", "content": "You speak of rivers and of nothing else."}
    turns = []
    with CommandR(embedded.path("Q8_0"), n_ctx=256, n_threads=1, context_shift=True) as model:
        head = model.prompt([system, {"role": "user", "content": "Hello."}]).tokens
        for turn in range(8):
            turns.append({"role": "user", "content": f"Name river number {turn}, and a town by it, and another one."})
            reply = model.chat([system, *turns], temperature=0.0, max_tokens=40)
            turns.append({"role": "assistant", "content": reply.text or "None."})
        longest = max((model.session.seq_tokens(i) for i in range(model.cache.n_sequences)), key=len)
        assert len(model.prompt([system, *turns]).tokens) > 256
        assert longest[: len(head) - 8] == head[: len(head) - 8]
        assert len(longest) <= 256


def test_pinning_needs_the_choice_to_shift() -> None:
    with pytest.raises(ArgumentError, match="n_keep is for context_shift=True"):
        CommandR(models.gguf("gqa"), n_keep=4)
