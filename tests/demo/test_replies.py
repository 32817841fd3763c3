"""The embedded model does its tasks, through the runtime and from quantized files, on prompts that it never saw.

The bounds are below its scores by more than chance explains with so few prompts; README.md beside the model has the
scores of 500. A broken kernel, template or tokenizer brings them near zero.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import embedded
from commandr_gguf import CommandR
from commandr_gguf.demo.evaluate import evaluate
from commandr_gguf.demo.scoring import Scores

COUNT = 40
BOUNDS = {"tool_name": 0.9, "action": 0.82, "cited": 0.9, "fact": 0.82, "grounded": 0.85, "spans": 0.82}
CHAT_BOUND = 0.92


@pytest.fixture(scope="module", params=["Q8_0", "Q4_K_M"])
def scores(request: pytest.FixtureRequest) -> Iterator[Scores]:
    # More threads gain nothing with so small a model, and lose where other tests run beside it.
    with CommandR(embedded.path(request.param), n_threads=1) as model:
        yield evaluate(model, count=COUNT, seed=11)


@pytest.mark.parametrize("metric", BOUNDS)
def test_held_out_prompts(scores: Scores, metric: str) -> None:
    score = scores.score(metric)
    wrong = [reply for reply in scores.wrong if reply.checks.get(metric) is False]
    assert score.rate >= BOUNDS[metric], [(reply.example.reply, reply.generation.text) for reply in wrong[:3]]


def test_chats(scores: Scores) -> None:
    assert scores.score("reply", "chat").rate >= CHAT_BOUND


def test_replies_end_by_themselves(scores: Scores) -> None:
    assert scores.n_cut <= 5
