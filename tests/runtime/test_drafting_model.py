"""Another model as drafter, and the drafters together on the embedded model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import embedded
import models
import shapes
from commandr_gguf import ArgumentError, CancelledError, CommandR, Generation, Model, SamplingParams, Session, generate
from commandr_gguf.demo.evaluate import held_out, request
from commandr_gguf.drafting.chain import Chain
from commandr_gguf.drafting.draft_model import DraftModel
from commandr_gguf.drafting.drafter import Draft, Drafter, GoOn, Limit, Source
from commandr_gguf.drafting.lookup import PromptLookup
from commandr_gguf.drafting.replay import AnswerReplay

GREEDY = SamplingParams(temperature=0)
PROMPT = list(range(5, 30))


@pytest.fixture(scope="module")
def target() -> Iterator[CommandR]:
    with CommandR(models.gguf("gqa"), n_ctx=256, n_threads=1) as opened:
        yield opened


def ten(_source: Source) -> int:
    return 10


def run(model: CommandR, prompt: list[int], drafter: Drafter | None = None) -> Generation:
    model.session.seq_rm(0)
    return generate(model.session, model.tokenizer, prompt, max_tokens=80, sampling=GREEDY, drafter=drafter)


def test_a_model_drafts_what_it_would_write(target: CommandR) -> None:
    with Session(target.model, n_ctx=256, n_threads=1) as session:
        drafter = DraftModel(session, target.model, n_max=7)
        text = run(target, PROMPT).tokens
        for done in (0, 1, 5, 20):
            draft = drafter.draft([*PROMPT, *text[:done]], ten)
            assert draft is not None
            assert draft.tokens == text[done : done + 7]
        assert drafter.draft(PROMPT, lambda _source: 0) is None


def test_replies_are_the_same_with_a_draft_model_that_is_often_wrong(target: CommandR) -> None:
    """Another shape with the same vocabulary: what it drafts is as good as random."""
    plain = run(target, PROMPT)
    with Model(models.gguf("cohere2")) as other, Session(other, n_ctx=256, n_threads=1) as session:
        drafter = Always(DraftModel(session, target.model))
        drafted = run(target, PROMPT, drafter)
    assert drafted.tokens == plain.tokens
    assert drafted.usage.drafted_tokens > 500
    assert drafted.usage.accepted_tokens < 100


def test_a_draft_model_with_a_short_context_stops_drafting(target: CommandR) -> None:
    plain = run(target, PROMPT)
    with Session(target.model, n_ctx=32, n_threads=1) as session:
        drafter = DraftModel(session, target.model)
        assert drafter.draft([5] * (session.n_ctx + 1), ten) is None
        assert run(target, PROMPT, drafter).tokens == plain.tokens


def test_a_draft_models_long_work_can_be_cancelled(target: CommandR) -> None:
    with Session(target.model, n_ctx=256, n_threads=1, n_ubatch=8) as session:
        done: list[int] = []

        def go_on(n_done: int, _n_total: int) -> bool:
            done.append(n_done)
            return len(done) < 3

        with pytest.raises(CancelledError):
            DraftModel(session, target.model).draft([5] * 200, ten, go_on)
        assert done[-1] < 200


def test_vocabularies_must_be_the_same(target: CommandR, tmp_path: Path) -> None:
    with Model(embedded.path()) as other, Session(other, n_ctx=64) as session:
        expected = rf"{other.path} cannot draft for {target.model.path}: its vocabulary has \d+ tokens, not 768"
        with pytest.raises(ArgumentError, match=expected):
            DraftModel(session, target.model)
    changed = shapes.write_checkpoint(tmp_path / "changed", "gqa", n_layers=1)
    tokenizer = changed / "tokenizer.json"
    text = tokenizer.read_text(encoding="utf-8")
    old, new = '"<|YES_TOKEN|>"', '"<|YEA_TOKEN|>"'
    assert old in text
    tokenizer.write_text(text.replace(old, new), encoding="utf-8")
    with (
        Model(models.convert(changed, tmp_path / "changed.gguf", "Q8_0")) as other,
        Session(other, n_ctx=64) as session,
        pytest.raises(ArgumentError, match=r"tokenizer\.ggml\.tokens differs at element \d+"),
    ):
        DraftModel(session, target.model)
    with (
        Session(target.model, n_ctx=64) as session,
        pytest.raises(ArgumentError, match="n_max must be 1 or more, not 0"),
    ):
        DraftModel(session, target.model, n_max=0)


class Always:
    """Lets a drafter draft, whatever its drafts cost on this machine."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter

    def draft(self, tokens: Sequence[int], _limit: Limit, _go_on: GoOn | None = None) -> Draft | None:
        return self._drafter.draft(tokens, lambda _source: 14)


@pytest.mark.parametrize("task", ["accurate", "tools", "chat"])
def test_replay_and_lookup_change_no_reply_of_the_embedded_model(task: str) -> None:
    """In Q8_0, whose logits do not depend on the batch."""
    n_tokens = n_evaluations = 0
    with CommandR(embedded.path("Q8_0"), n_ctx=1024, n_threads=1) as model:
        for example in held_out(task, 12, seed=5):  # type: ignore[arg-type]  # one of the tasks
            prompt = model.prompt(**request(example)).tokens
            plain = run(model, prompt)
            replay = AnswerReplay(model.tokenizer, len(prompt))
            drafted = run(model, prompt, Always(Chain([replay, PromptLookup()])))
            assert (drafted.tokens, drafted.text) == (plain.tokens, plain.text)
            assert drafted.finish_reason == plain.finish_reason
            n_tokens += drafted.timings.decode_tokens
            n_evaluations += drafted.timings.decode_evaluations
    assert n_tokens / n_evaluations > {"accurate": 1.5, "tools": 1.0, "chat": 1.0}[task]


def test_the_grounded_part_is_mostly_replayed() -> None:
    n_drafted = n_accepted = n_tokens = 0
    with CommandR(embedded.path("Q8_0"), n_ctx=1024, n_threads=1) as model:
        for example in held_out("accurate", 12, seed=5):
            prompt = model.prompt(**request(example)).tokens
            usage = run(model, prompt, Always(AnswerReplay(model.tokenizer, len(prompt)))).usage
            n_drafted += usage.drafted_tokens
            n_accepted += usage.accepted_tokens
            n_tokens += usage.completion_tokens
    assert n_accepted > 0.3 * n_tokens  # the grounded part is somewhat more than half of a reply
    assert n_drafted < 4 * n_accepted
