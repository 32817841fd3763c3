"""Which logits generations compute: none of prompts, and under a grammar few; replies are the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import embedded
import models
from commandr_gguf import CommandR, CommandRError, EvalItem, NextToken, Reply, Sampler, Session, regex_grammar
from commandr_gguf._native import ffi, lib
from commandr_gguf.constraint import Constraint
from commandr_gguf.demo.data.example import Task
from commandr_gguf.demo.evaluate import held_out, request
from commandr_gguf.eval_items import Want


@dataclass(frozen=True)
class Seen:
    """An item of an evaluation."""

    n_outputs: int
    n_allowed: int
    """Tokens of its mask; -1 without one."""
    whole: bool
    """Whether all logits were computed."""


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """The items of all evaluations."""
    seen: list[Seen] = []
    evaluate = Session._eval

    def spy(session: Session, pointer: Any, items: Sequence[EvalItem], *rest: Any) -> None:
        evaluate(session, pointer, items, *rest)
        for i, item in enumerate(items):
            n_allowed = -1 if item.mask is None else int(np.unpackbits(item.mask.view(np.uint8)).sum())
            row = lib.commandr_session_logits(pointer, i, 0)
            whole = bool(row) and bool(np.isfinite(ffi.unpack(row, session.model.hparams.n_vocab)).all())
            seen.append(Seen(item.n_outputs, n_allowed, whole))

    monkeypatch.setattr(Session, "_eval", spy)
    return seen


def replies(task: Task, count: int = 8, **options: Any) -> list[Reply]:
    """Sampled and greedy ones in turn, of a model that holds nothing yet, so that batches are the same each time."""
    found = []
    with CommandR(embedded.path("Q8_0"), n_ctx=1024, n_threads=1) as model:
        for i, example in enumerate(held_out(task, count, seed=5)):
            temperature = 0.0 if i % 2 else 1.5
            found.append(
                model.chat(
                    **request(example), max_tokens=120, temperature=temperature, seed=i, repeat_penalty=1.1, **options
                )
            )
    return found


def known(reply: Reply) -> tuple[Any, ...]:
    """What two replies are compared by."""
    return reply.tokens, reply.raw_text, reply.finish_reason, reply.logprobs


@pytest.mark.parametrize("speculate", [False, True])
@pytest.mark.parametrize("task", ["tools", "accurate", "fast"])
def test_replies_are_those_of_whole_heads(
    task: Task, speculate: bool, evaluated: list[Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = replies(task, speculate=speculate)
    few = [item for item in evaluated if item.n_outputs and not item.whole]
    assert 0.1 * len(evaluated) < len(few) < len(evaluated)
    assert all(item.n_allowed > 0 for item in few)
    assert (max(item.n_outputs for item in few) > 1) == speculate
    evaluated.clear()
    monkeypatch.setattr(Constraint, "lookahead", lambda *_: None)
    assert [known(reply) for reply in found] == [known(reply) for reply in replies(task, speculate=speculate)]
    assert all(item.whole for item in evaluated if item.n_outputs)


def test_logprobs_are_those_among_all_tokens(evaluated: list[Seen]) -> None:
    options: dict[str, Any] = {"grammar": regex_grammar("(yes|no)"), "temperature": 0.0, "max_tokens": 1}
    with CommandR(embedded.path("Q8_0"), n_ctx=1024, n_threads=1) as model:
        with_logprobs = model.generate("Is it? ", **options, top_logprobs=3)
        free = model.generate("Is it? ", temperature=0.0, max_tokens=1, top_logprobs=3)
        assert with_logprobs.logprobs[0].top == free.logprobs[0].top
        assert all(item.whole for item in evaluated if item.n_outputs)
        evaluated.clear()
        assert model.generate("Is it? ", **options).tokens == with_logprobs.tokens
        assert [item.whole for item in evaluated if item.n_outputs] == [False]


def test_a_grammar_is_not_looked_ahead_in_where_the_head_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(Constraint, "lookahead", lambda _self, _tokens, n_most: asked.append(n_most))
    grammar = regex_grammar("(ab|cd){4,9}")
    for path in (models.gguf("gqa", "Q4_K_M"), embedded.path("Q8_0")):  # the first has a small vocabulary
        with CommandR(path, n_ctx=256, n_threads=1) as model:
            model.generate([5], grammar=grammar, max_tokens=8)
            most = lib.commandr_model_max_masked(model.model.pointer)
        assert set(asked) == ({most} if most else set())


@pytest.mark.parametrize("task", ["chat", "tools", "accurate"])
def test_only_tokens_that_are_sampled_get_logits(
    task: Task, evaluated: list[Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of prompts, nor those behind which a grammar forces the next one."""
    n_sampled = 0
    sample = Sampler.sample

    def count(*arguments: Any) -> int:
        nonlocal n_sampled
        n_sampled += 1
        return sample(*arguments)

    monkeypatch.setattr(Sampler, "sample", count)
    found = replies(task, count=4, speculate=False)
    assert n_sampled > 4
    assert sum(item.n_outputs for item in evaluated) == n_sampled
    assert (n_sampled < sum(len(reply.tokens) for reply in found)) == (task != "chat")


def test_each_token_of_a_draft_gets_logits_and_no_other(evaluated: list[Seen], monkeypatch: pytest.MonkeyPatch) -> None:
    drafts: list[int] = []
    advance = Session.advance

    def spy(session: Session, wants: Sequence[Want], **options: Any) -> list[list[NextToken] | CommandRError]:
        drafts.extend(len(want.draft) for want in wants if want.sampler is not None)
        return advance(session, wants, **options)

    monkeypatch.setattr(Session, "advance", spy)
    replies("accurate", count=4)
    assert max(drafts) > 1
    assert [item.n_outputs for item in evaluated if item.n_outputs] == [n + 1 for n in drafts]


def test_a_prompt_alone_gets_no_logits(evaluated: list[Seen]) -> None:
    with CommandR(embedded.path("Q8_0"), n_ctx=1024, n_threads=1) as model:
        assert model.generate(" ".join(["word"] * 100), max_tokens=0).usage.prompt_tokens >= 100
    assert evaluated
    assert all(item.n_outputs == 0 for item in evaluated)
