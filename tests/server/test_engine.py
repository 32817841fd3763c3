"""The engine, step by step: who is computed when, and that nobody's reply depends on the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import embedded
from commandr_gguf import (
    CommandR,
    CommandRError,
    ContextFullError,
    Finish,
    GenerationStream,
    OutOfMemoryError,
    Session,
    json_schema_grammar,
)
from commandr_gguf.demo import showcase
from commandr_gguf.embedding import embed_steps
from commandr_gguf.eval_items import Want
from commandr_gguf.generation_steps import GenerationSteps
from commandr_gguf.server.budget import PrefillBudget
from commandr_gguf.server.engine import Engine
from commandr_gguf.server.errors import QueueFullError, StoppingError, TimeUpError
from server.serving import wait_until
from server.stepping import Asked, leases, run_all

CHAT, QUESTION, TOOL_QUESTION = (
    [{"role": "user", "content": content}] for content in (showcase.CHAT, showcase.QUESTION, showcase.TOOL_QUESTION)
)
WORDS = [f"word{i % 97}" for i in range(2000)]


@pytest.fixture
def model() -> Iterator[CommandR]:
    with CommandR(embedded.path("Q8_0"), n_ctx=4096, n_seq_max=8, n_threads=1) as opened:
        yield opened


def text(model: CommandR, prompt: str, n: int = 40, **options: Any) -> GenerationStream:
    """A generation of exactly n tokens."""
    ends = dict.fromkeys(model.tokenizer.end_of_generation, -np.inf)
    return model.generate(prompt, max_tokens=n, temperature=0, logit_bias=ends, stream=True, **options)


def long_prompt(n_words: int, first: str = "once") -> str:
    return " ".join([first, *WORDS[:n_words]])


# ---- many at once


def test_replies_beside_others_are_those_alone(model: CommandR) -> None:
    prompts = ["The harbor", "A lighthouse", "Seven bridges and a tower", "x"]
    alone = [text(model, prompt).finish().tokens for prompt in prompts]
    assert len({tuple(tokens) for tokens in alone}) == 4
    engine = Engine(model)
    asked = []
    for prompt in prompts:  # each joins while the ones before it are being written
        asked.append(Asked(engine, text(model, prompt)))
        engine._step()
        engine._step()
    run_all(engine, *asked)
    assert [one.tokens for one in asked] == alone


def test_replies_of_every_kind_are_computed_together(model: CommandR) -> None:
    questions: list[dict[str, Any]] = [
        {"messages": CHAT},
        {"messages": QUESTION, "documents": showcase.DOCUMENTS},
        {"messages": TOOL_QUESTION, "tools": showcase.TOOLS},
        {"messages": [{"role": "user", "content": "Hello, who are you?"}], "tools": showcase.TOOLS},
        {"messages": CHAT, "temperature": 0.8, "seed": 3},
        {"messages": CHAT, "grammar": json_schema_grammar({"type": "integer"}), "max_tokens": 8},
    ]

    def begin(question: dict[str, Any]) -> Any:
        return model.chat(**{"temperature": 0, "max_tokens": 200, **question}, stream=True)

    alone = [begin(question).finish() for question in questions]
    engine = Engine(model, n_parallel=6)
    asked = [Asked(engine, begin(question)) for question in questions]
    run_all(engine, *asked)
    for one, expected in zip(asked, alone, strict=True):
        assert one.reply.tokens == expected.tokens
        assert one.reply.text == expected.text
        assert one.reply.citations == expected.citations
        assert one.reply.tool_calls == expected.tool_calls
        assert one.reply.finish_reason == expected.finish_reason
    assert alone[1].citations
    assert alone[2].tool_calls
    assert len(asked[3].stream.generations) == 2  # type: ignore[union-attr]  # it wanted no tool and was asked again
    assert leases(model) == 0


def test_events_and_pieces_come_as_they_are_written(model: CommandR) -> None:
    engine = Engine(model)
    asked = Asked(engine, model.chat(CHAT, temperature=0, stream=True))
    run_all(engine, asked)
    assert len(asked.outputs) > 3
    assert [output.ended for output in asked.outputs] == [False] * (len(asked.outputs) - 1) + [True]
    assert sum(isinstance(event, Finish) for output in asked.outputs for event in output.events) == 1
    assert asked.tokens == asked.reply.tokens


def test_a_reply_alone_is_drafted_and_one_beside_others_is_not(model: CommandR) -> None:
    def begin() -> Any:
        return model.chat(QUESTION, documents=showcase.DOCUMENTS, temperature=0, stream=True)

    engine = Engine(model)
    run_all(engine, Asked(engine, begin()))
    assert engine.counts.accepted_tokens > 0
    n_drafted = engine.counts.drafted_tokens
    asked = [Asked(engine, begin()), Asked(engine, text(model, "The harbor", 200))]
    run_all(engine, asked[0])
    assert engine.counts.drafted_tokens == n_drafted


# ---- turns


def test_the_prompt_of_a_newcomer_does_not_hold_up_a_reply(model: CommandR) -> None:
    engine = Engine(model, n_prefill=32)
    engine._evaluation._budget = PrefillBudget(32, n_least=16)
    running = Asked(engine, text(model, "The harbor", 300))
    while not running.outputs:
        engine._step()
    newcomer = Asked(engine, text(model, long_prompt(400), 2))
    n_steps = 0
    while not newcomer.job.steps.begun:
        n_before = len(running.job.steps.result.tokens)
        engine._step()
        n_steps += 1
        assert len(running.job.steps.result.tokens) == n_before + 1  # a token in each step
    n_prompt = newcomer.stream.steps.result.usage.prompt_tokens  # type: ignore[union-attr]
    assert n_prompt > 400
    assert n_prompt / 32 <= n_steps <= n_prompt / 16 + 3  # one of them without a part of the prompt


def test_prompts_take_turns(model: CommandR) -> None:
    engine = Engine(model, n_prefill=32)
    first, second = (Asked(engine, text(model, long_prompt(300, name), 1)) for name in ("one", "two"))
    held = []
    for _ in range(6):
        engine._step()
        held.append((first.job.steps.n_held, second.job.steps.n_held))
    assert held == [(32, 0), (32, 32), (64, 32), (64, 64), (96, 64), (96, 96)]
    short = Asked(engine, text(model, "The harbor", 1))
    run_all(engine, short, limit=4)
    assert not first.ended


def test_a_prompt_that_begins_like_one_being_computed_waits_for_that(model: CommandR) -> None:
    engine = Engine(model, n_prefill=64)
    preamble = long_prompt(300)
    asked = [Asked(engine, text(model, f"{preamble} {name}", 4)) for name in ("one", "two", "three")]
    other = Asked(engine, text(model, "The harbor", 4))
    run_all(engine, *asked, other)
    n_preamble = len(model.tokenize(preamble, add_special=True))
    usages = [one.job.steps.result.usage for one in asked]
    assert usages[0].cached_tokens == 0
    assert all(usage.cached_tokens >= n_preamble - 64 for usage in usages[1:])
    assert engine.counts.prompt_tokens < 1.5 * n_preamble
    assert engine.counts.cached_tokens == sum(usage.cached_tokens for usage in usages)


# ---- limits


def test_more_requests_than_may_wait_are_refused(model: CommandR) -> None:
    engine = Engine(model, n_parallel=1, n_queue=1)
    first = Asked(engine, text(model, "a", 3))
    engine._step()
    second = Asked(engine, text(model, "b", 3))
    with pytest.raises(QueueFullError, match="1 requests wait already") as caught:
        Asked(engine, text(model, "c", 3))
    assert 1 <= caught.value.retry_after <= 60
    assert engine.counts.refused == 1
    run_all(engine, first, second)
    run_all(engine, Asked(engine, text(model, "c", 3)))


def test_a_prompt_beyond_the_context_is_refused(model: CommandR) -> None:
    with pytest.raises(ContextFullError, match="the prompt has 4097 tokens, and the context 4096"):
        Asked(Engine(model), model.generate([5] * 4097, stream=True))


def test_time_in_the_queue_counts(model: CommandR) -> None:
    engine = Engine(model, n_parallel=1)
    running = Asked(engine, text(model, "The harbor", 200))
    engine._step()
    late = Asked(engine, text(model, "A lighthouse", 3), timeout=0.01)
    time.sleep(0.02)
    engine._step()
    assert isinstance(late.failures[0].error, TimeUpError)
    assert not running.ended
    assert engine.counts.ended == {"timeout": 1}


def test_a_reply_whose_time_is_up_ends_where_it_is(model: CommandR) -> None:
    engine = Engine(model)
    asked = Asked(engine, model.chat(CHAT, stream=True, temperature=0), timeout=0.5)
    while not asked.outputs:
        engine._step()
    time.sleep(0.5)
    engine._step()
    assert asked.ended
    assert asked.outputs[-1].timed_out
    assert asked.reply.finish_reason == "cancelled"
    assert asked.reply.text
    assert leases(model) == 0


def test_a_cancelled_request_is_gone_after_one_step(model: CommandR) -> None:
    engine = Engine(model, n_parallel=2, n_prefill=32)
    writing = Asked(engine, text(model, "The harbor", 300))
    while not writing.outputs:
        engine._step()
    reading = Asked(engine, text(model, long_prompt(400), 3))
    engine._step()
    waiting = Asked(engine, text(model, "A lighthouse", 3))
    last = Asked(engine, text(model, "x", 3))
    for one in (writing, reading, waiting):
        one.job.cancel()
    engine._step()
    for one in (writing, reading, waiting):
        assert one.ended
        assert one.outputs[-1].piece.finish_reason == "cancelled"
    assert last.job.steps.begun  # it has a place in the very step
    run_all(engine, last)
    assert leases(model) == 0


# ---- cells


def test_when_cells_run_out_the_youngest_gives_way_and_goes_on_later() -> None:
    options: dict[str, Any] = {"n_threads": 1, "n_seq_max": 4}
    prompts = ["The harbor", "A lighthouse of stone", "Seven"]
    with CommandR(embedded.path("Q8_0"), n_ctx=1024, **options) as roomy:
        alone = [text(roomy, prompt, 120).finish().tokens for prompt in prompts]
    with CommandR(embedded.path("Q8_0"), n_ctx=256, **options) as model:
        engine = Engine(model)
        asked = [Asked(engine, text(model, prompt, 120)) for prompt in prompts]
        run_all(engine, *asked)
        assert engine.counts.suspended > 0
        assert [one.tokens for one in asked] == alone
        assert leases(model) == 0


def memory_for(monkeypatch: pytest.MonkeyPatch, n_cells: int) -> None:
    """The cache cannot grow beyond so many cells."""
    advance = Session.advance

    def within(session: Session, wants: Sequence[Want], **options: Any) -> Any:
        held = {seq_id: session.seq_length(seq_id) for seq_id in range(8)}
        if sum((held | {want.seq_id: len(want.tokens) + len(want.draft) for want in wants}).values()) > n_cells:
            raise OutOfMemoryError("the cache cannot grow")
        return advance(session, wants, **options)

    monkeypatch.setattr(Session, "advance", within)


def test_where_memory_ends_before_the_context_idle_sequences_and_then_the_youngest_give_way(
    model: CommandR, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["The harbor", "A lighthouse of stone", "Seven"]
    alone = [text(model, prompt, 120).finish().tokens for prompt in prompts]
    engine = Engine(model)
    memory_for(monkeypatch, 256)  # less than the three replies above have left behind
    asked = [Asked(engine, text(model, prompt, 120)) for prompt in prompts]
    run_all(engine, *asked)
    assert engine.counts.suspended > 0
    assert [one.tokens for one in asked] == alone
    assert leases(model) == 0


def test_of_two_prompts_that_are_read_in_turns_the_younger_gives_way_where_memory_ends(
    model: CommandR, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [long_prompt(60), long_prompt(60, "twice")]
    with CommandR(embedded.path("Q8_0"), n_ctx=4096, n_threads=1) as other:  # nothing of them is in this one's cache
        alone = [text(other, prompt, 10).finish().tokens for prompt in prompts]
    n_cells = max(len(model.tokenizer.encode(prompt, add_special=True)) for prompt in prompts) + 40
    engine = Engine(model, n_prefill=32)
    memory_for(monkeypatch, n_cells)
    asked = [Asked(engine, text(model, prompt, 10)) for prompt in prompts]
    run_all(engine, *asked)
    assert [one.failures for one in asked] == [[], []]
    assert [one.tokens for one in asked] == alone


def test_a_draft_is_given_up_before_a_reply_is_where_memory_ends(
    model: CommandR, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "a b c " * 20
    expected = text(model, prompt, 20, speculate=True).finish()
    assert expected.usage.drafted_tokens > 0
    advance = Session.advance

    def without_drafts(session: Session, wants: Sequence[Want], **others: Any) -> Any:
        if any(want.draft for want in wants):
            raise OutOfMemoryError("the cache cannot grow")
        return advance(session, wants, **others)

    monkeypatch.setattr(Session, "advance", without_drafts)
    assert text(model, prompt, 20, speculate=True).finish().tokens == expected.tokens
    engine = Engine(model)
    asked = Asked(engine, text(model, prompt, 20, speculate=True))
    run_all(engine, asked)
    assert asked.tokens == expected.tokens


def test_a_reply_that_memory_has_no_room_for_ends_by_an_error_and_others_are_answered(
    model: CommandR, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model)
    memory_for(monkeypatch, 64)
    long, short = Asked(engine, text(model, "The harbor", 500)), Asked(engine, text(model, "Seven", 20))
    run_all(engine, long, short)
    assert [str(failure.error) for failure in long.failures] == ["the cache cannot grow"]
    assert len(short.tokens) == 20


def test_a_reply_that_is_streamed_alone_takes_the_memory_of_idle_conversations(
    model: CommandR, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = text(model, "Seven", 100).finish().tokens
    for prompt in ("The harbor", "A lighthouse of stone"):
        text(model, prompt, 100).finish()
    memory_for(monkeypatch, 128)
    assert text(model, "Seven", 100).finish().tokens == expected
    memory_for(monkeypatch, 64)
    with pytest.raises(OutOfMemoryError):
        text(model, "Seven", 100).finish()


def test_a_reply_alone_ends_where_the_context_does() -> None:
    with CommandR(embedded.path("Q8_0"), n_ctx=64, n_seq_max=2, n_threads=1) as model:
        engine = Engine(model, n_parallel=2)
        asked = Asked(engine, text(model, "The harbor", 500))
        run_all(engine, asked)
        assert asked.outputs[-1].piece.finish_reason == "length"
        assert 50 < len(asked.tokens) <= 64


def test_a_prompt_without_room_waits_for_those_at_work() -> None:
    with CommandR(embedded.path("Q8_0"), n_ctx=512, n_seq_max=4, n_threads=1) as model:
        engine = Engine(model, n_prefill=256)
        first = Asked(engine, text(model, long_prompt(90), 30))
        while not first.outputs:
            engine._step()
        second = Asked(engine, text(model, long_prompt(90, "twice"), 30))
        n_before = engine.counts.prompt_tokens
        for _ in range(5):
            engine._step()
        assert not first.ended
        assert engine.counts.prompt_tokens == n_before  # nothing of it is computed in vain
        run_all(engine, first, second)
        assert len(second.tokens) == 30


# ---- failures


def test_a_failing_request_fails_alone(model: CommandR) -> None:
    every = dict.fromkeys(range(model.model.hparams.n_vocab), -np.inf)
    engine = Engine(model)
    fine = Asked(engine, text(model, "The harbor", 10))
    bad = Asked(engine, model.generate("x", logit_bias=every, stream=True))
    run_all(engine, fine, bad)
    assert "no token is allowed" in str(bad.failures[0].error)
    assert len(fine.tokens) == 10
    assert engine.counts.ended == {"length": 1, "error": 1}
    assert leases(model) == 0


def test_a_defect_in_one_request_is_logged_and_not_told(
    model: CommandR, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(model)
    fine, bad = (Asked(engine, text(model, prompt, 10)) for prompt in ("The harbor", "x"))
    want = GenerationSteps.want

    def broken(steps: GenerationSteps, **options: Any) -> Any:
        if steps is bad.job.steps:
            raise ZeroDivisionError("secret")
        return want(steps, **options)

    monkeypatch.setattr(GenerationSteps, "want", broken)
    run_all(engine, fine, bad)
    assert str(bad.failures[0].error) == "the server failed; its log says why"
    assert "secret" in caplog.text
    assert len(fine.tokens) == 10


# ---- side work and the end


def test_embeddings_are_computed_beside_replies(model: CommandR) -> None:
    tokens = model.tokenize(long_prompt(200), add_special=True)
    expected = model.embed(long_prompt(200))
    engine = Engine(model)
    running = Asked(engine, text(model, "The harbor", 1000))
    while not running.outputs:
        engine._step()
    future = engine.work(embed_steps(model.session, tokens, "mean", n_batch=64, seq_id=7))
    n_steps = 0
    while not future.done():
        n_before = len(running.job.steps.result.tokens)
        engine._step()
        n_steps += 1
        assert len(running.job.steps.result.tokens) > n_before
    assert n_steps == -(-len(tokens) // 64)
    assert float(future.result() @ expected) > 0.9999


def test_errors_of_side_work_are_the_future_s(model: CommandR) -> None:
    engine = Engine(model).start()
    future = engine.work(embed_steps(model.session, [], "mean", n_batch=64))
    with pytest.raises(CommandRError, match="an empty text"):
        future.result(20)
    engine.close()


def started(model: CommandR, begin: Callable[[], Any], n: int, **options: Any) -> tuple[Engine, list[Asked]]:
    engine = Engine(model, **options).start()
    return engine, [Asked(engine, begin()) for _ in range(n)]


def test_a_closed_engine_finishes_what_the_grace_allows(model: CommandR) -> None:
    engine, asked = started(model, lambda: text(model, "The harbor", 40), 3)
    engine.close(grace=30)
    assert [len(one.tokens) for one in asked] == [40] * 3
    with pytest.raises(StoppingError):
        Asked(engine, text(model, "a"))
    with pytest.raises(StoppingError):
        engine.work(embed_steps(model.session, [5], "mean", n_batch=64))


def test_a_closed_engine_cancels_what_the_grace_does_not_allow(model: CommandR) -> None:
    engine, asked = started(model, lambda: text(model, "The harbor", 4000), 6, n_parallel=2)
    wait_until(lambda: asked[0].outputs)
    engine.close()
    assert all(one.ended and one.outputs[-1].piece.finish_reason == "cancelled" for one in asked)
    assert leases(model) == 0
    assert not any(thread.name == "commandr-engine" for thread in threading.enumerate())


def test_an_idle_engine_waits(model: CommandR) -> None:
    engine, [asked] = started(model, lambda: text(model, "The harbor", 3), 1)
    wait_until(lambda: asked.ended)
    n_steps = engine.counts.steps
    time.sleep(0.1)
    assert engine.counts.steps == n_steps
    assert (engine.counts.waiting, engine.counts.active) == (0, 0)
    engine.close()
