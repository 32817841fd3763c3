"""Generations of several threads on one session, and what a cancellation reaches."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

import models
from commandr_gguf import CancelledError, CommandR, Generation, Model, SamplingParams, Session, Tokenizer, generate

PROMPTS = ("The harbor", "A lighthouse of stone", "Seven")


@pytest.fixture
def model() -> Iterator[CommandR]:
    with CommandR(models.gguf("gqa"), n_ctx=12288, n_ubatch=128) as opened:
        yield opened


def test_threads_with_a_sequence_each_get_their_own_replies() -> None:
    with Model(models.gguf("gqa")) as weights:
        tokenizer = Tokenizer.from_gguf(weights.gguf)
        greedy = SamplingParams(temperature=0)

        def run(session: Session, seq_id: int) -> Generation:
            return generate(
                session, tokenizer, PROMPTS[seq_id], max_tokens=60, sampling=greedy, seq_id=seq_id, top_logprobs=0
            )

        def new() -> Session:
            return Session(weights, n_ctx=1024, n_seq_max=3, type_k="f32", type_v="f32", n_threads=1)

        with new() as session:
            expected = [run(session, i).tokens for i in range(3)]
        assert len({tuple(tokens) for tokens in expected}) == 3
        with new() as session:
            replies: dict[int, list[int]] = {}
            threads = [
                threading.Thread(target=lambda i=i: replies.update({i: run(session, i).tokens})) for i in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert [replies[i] for i in range(3)] == expected


def test_a_cancel_while_nothing_runs_reaches_nothing(model: CommandR) -> None:
    model.cancel()
    assert model.generate("a", max_tokens=2).finish_reason != "cancelled"
    model.cancel()
    assert model.logits([5, 30]).shape[0] == 2
    assert model.embed("a").ndim == 1


def test_cancel_stops_logits(model: CommandR) -> None:
    tokens = np.random.default_rng(0).integers(8, 600, 12000)
    timer = threading.Timer(0.3, model.cancel)
    timer.start()
    with pytest.raises(CancelledError):
        model.logits(tokens)
    timer.join()
    assert model.logits([5]).shape[0] == 1


def test_a_generation_does_not_lift_the_cancellation_of_the_session(model: CommandR) -> None:
    stopped = model.generate("a b c", max_tokens=2, progress=lambda *_: False)
    assert stopped.finish_reason == "cancelled"
    model.session.cancel()
    for _ in range(2):
        assert model.generate("a b c", max_tokens=2, progress=lambda *_: False).finish_reason == "cancelled"
        assert model.generate("a b c", max_tokens=2).finish_reason == "cancelled"
    model.session.cancel(False)
    assert model.generate("a b c", max_tokens=2).finish_reason != "cancelled"


def test_a_stream_can_be_cancelled_alone(model: CommandR) -> None:
    first, second = (model.generate("a", max_tokens=3, stream=True, temperature=0) for _ in range(2))
    first.cancel()
    assert first.finish().finish_reason == "cancelled"
    assert second.finish().finish_reason != "cancelled"
