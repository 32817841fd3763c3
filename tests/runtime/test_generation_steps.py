"""Generations in steps, evaluated together and in parts: each gives the tokens that it gives alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import models
from commandr_gguf import ArgumentError, CommandR, Piece, Sampler, SamplingParams, Session
from commandr_gguf.errors import CommandRError
from commandr_gguf.eval_items import Want
from commandr_gguf.generation_steps import GenerationSteps

PROMPTS = ["The harbor", "A lighthouse of stone " * 8, "Seven"]
EXACT: dict[str, Any] = {"n_ctx": 1024, "n_ubatch": 32, "n_threads": 1, "type_k": "f32", "type_v": "f32"}


@pytest.fixture(params=models.SHAPES)
def model(request: pytest.FixtureRequest) -> Iterator[CommandR]:
    with CommandR(models.gguf(request.param), n_seq_max=4, **EXACT) as opened:
        yield opened


def steps_of(model: CommandR, prompt: str, **options: Any) -> GenerationSteps:
    stream = model.generate(prompt, max_tokens=20, temperature=0, stream=True, **options)
    stream.steps.begin()
    return stream.steps


def run(session: Session, all_steps: list[GenerationSteps], **options: Any) -> list[list[int]]:
    """Evaluate what all of them want until they have ended."""
    while not all(steps.ended for steps in all_steps):
        asked = [(steps, steps.want(**options)) for steps in all_steps if not steps.ended]
        wanting = [(steps, want) for steps, want in asked if isinstance(want, Want)]
        for (steps, want), found in zip(wanting, session.advance([want for _, want in wanting]), strict=True):
            assert not isinstance(found, CommandRError)
            steps.take(found, 0.0)
            assert steps.n_held == session.seq_length(want.seq_id)
    for steps in all_steps:
        steps.close()
    return [steps.result.tokens for steps in all_steps]


@pytest.mark.parametrize("options", [{}, {"n_most": 7}, {"n_most": 1}, {"drafts": False}])
def test_generations_evaluated_together_are_those_alone(model: CommandR, options: dict[str, Any]) -> None:
    alone = [model.generate(prompt, max_tokens=20, temperature=0).tokens for prompt in PROMPTS]
    for seq_id in range(4):
        model.session.seq_rm(seq_id)
    assert run(model.session, [steps_of(model, prompt) for prompt in PROMPTS], **options) == alone


def test_a_prompt_in_parts_is_counted_once(model: CommandR) -> None:
    steps = steps_of(model, PROMPTS[1])
    n_prompt = steps.result.usage.prompt_tokens
    sizes = []
    while not steps.begun:
        want = steps.want(n_most=16)
        assert isinstance(want, Want)
        sizes.append(len(want.tokens) - steps.n_held)
        [found] = model.session.advance([want])
        assert not isinstance(found, CommandRError)
        steps.take(found, 0.25)
    assert sizes == [16] * (n_prompt // 16) + [n_prompt % 16] * bool(n_prompt % 16)
    timings = steps.result.timings
    assert timings.prefill_tokens == n_prompt
    assert timings.prefill_seconds == pytest.approx(0.25 * len(sizes), abs=0.2)
    steps.close()


def test_a_suspended_generation_goes_on_as_if_nothing_had_been(model: CommandR) -> None:
    alone = model.generate(PROMPTS[0], max_tokens=20, temperature=0).tokens
    steps = steps_of(model, PROMPTS[0])
    for n_steps in range(1, 100):
        if steps.ended:
            break
        want = steps.want(drafts=False)
        if isinstance(want, Piece):
            break
        [found] = model.session.advance([want])
        assert not isinstance(found, CommandRError)
        steps.take(found, 0.0)
        if n_steps in {1, 5, 6}:
            steps.suspend()
            assert steps.n_held == 0
            for seq_id in range(4):
                model.session.seq_rm(seq_id)
            steps.begin()
    assert steps.result.tokens == alone
    assert steps.result.usage.completion_tokens == 20
    steps.close()


def test_cancelled_steps_end_with_what_they_have(model: CommandR) -> None:
    steps = steps_of(model, PROMPTS[0])
    want = steps.want()
    assert isinstance(want, Want)
    [found] = model.session.advance([want])
    assert not isinstance(found, CommandRError)
    steps.take(found, 0.0)
    steps.cancel()
    last = steps.want()
    assert isinstance(last, Piece)
    assert last.finish_reason == "cancelled"
    assert steps.ended
    assert len(steps.result.tokens) == 1
    steps.close()


# ---- Session.advance


def test_drafts_of_several_sequences_are_verified_together(model: CommandR) -> None:
    session, n_vocab = model.session, model.model.hparams.n_vocab
    greedy = SamplingParams(temperature=0)
    prompts = [[5, *range(30, 40)], [5, *range(60, 90)]]
    texts = []
    for prompt in prompts:
        tokens = list(prompt)
        for _ in range(6):
            step = session.next_token(tokens, Sampler(n_vocab, greedy))
            tokens.append(int(step.token or 0))
        texts.append(tokens[len(prompt) :])
    session.seq_rm(0)
    wants = [
        Want(prompts[0], Sampler(n_vocab, greedy), 0, texts[0][:3]),
        Want(prompts[1], Sampler(n_vocab, greedy), 1, [*texts[1][:2], texts[1][2] ^ 1]),
    ]
    first, second = session.advance(wants)
    assert not isinstance(first, CommandRError)
    assert not isinstance(second, CommandRError)
    assert [step.token for step in first] == texts[0][:4]
    assert [step.token for step in second] == texts[1][:3]
    assert session.seq_tokens(0) == [*prompts[0], *texts[0][:3]]
    assert session.seq_tokens(1) == [*prompts[1], *texts[1][:2]]  # the wrong guess is forgotten


def test_an_error_of_choosing_concerns_one_want_alone(model: CommandR) -> None:
    n_vocab = model.model.hparams.n_vocab
    none = SamplingParams(logit_bias=dict.fromkeys(range(n_vocab), -np.inf))
    bad, good = model.session.advance(
        [Want([5, 30], Sampler(n_vocab, none), 0, [31]), Want([5, 30], Sampler(n_vocab, SamplingParams()), 1)]
    )
    assert isinstance(bad, ArgumentError)
    assert not isinstance(good, CommandRError)
    assert len(good) == 1
    assert model.session.seq_tokens(0) == [5, 30]
