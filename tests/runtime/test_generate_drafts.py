"""Generation with drafts and with constraints: what ends a reply in the middle of a draft, and what is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import models
from commandr_gguf import (
    ArgumentError,
    CommandR,
    ContextFullError,
    Generation,
    GenerationStream,
    SamplingParams,
    Session,
    allowed_mask,
    generate,
)
from commandr_gguf.constraint import ConstraintEngine
from commandr_gguf.drafting.drafter import Draft, GoOn, Limit, Source
from commandr_gguf.drafting.lookup import PromptLookup

PROMPT = [5, *np.random.default_rng(3).integers(8, 600, 20).tolist()]
GREEDY = SamplingParams(temperature=0)
SAMPLED = SamplingParams(seed=3, top_p=0.95, repeat_penalty=1.3)


@pytest.fixture(scope="module")
def model() -> Iterator[CommandR]:
    # Cached keys in half precision would now and then be rounded the other way, and so another token be drawn: ggml's
    # products of F32 weights differ in the last bit with the number of columns.
    with CommandR(models.gguf("gqa"), n_ctx=512, n_threads=1, type_k="f32", type_v="f32") as opened:
        yield opened


@pytest.fixture(autouse=True)
def empty(model: CommandR) -> None:
    model.session.seq_rm(0)


class Teacher:
    """Drafts a text that it was given, without asking how long a draft may be; `wrong`: every so many tokens."""

    def __init__(self, text: Sequence[int], n_max: int = 9, wrong: int = 10**9) -> None:
        self.text = list(text)
        self.n_max = n_max
        self.wrong = wrong
        self.n_drafts = 0

    def draft(self, tokens: Sequence[int], _limit: Limit, _go_on: GoOn | None = None) -> Draft | None:
        start = len(tokens) - len(PROMPT)
        assert list(tokens) == [*PROMPT, *self.text[:start]] or self.wrong < 10**9
        self.n_drafts += 1
        guess = [
            9 if i % self.wrong == self.wrong - 1 else self.text[i]
            for i in range(start, min(start + self.n_max, len(self.text)))
        ]
        return Draft(guess, Source("teacher")) if guess else None


class Script:
    """A constraint that allows some tokens at each place; a place with one token is forced."""

    def __init__(self, model: CommandR, places: Sequence[Sequence[int]]) -> None:
        self.n_vocab = model.model.hparams.n_vocab
        self.ends = list(model.tokenizer.end_of_generation)
        self.places = [list(place) for place in places]
        self.accepted: list[int] = []

    def mask(self) -> npt.NDArray[np.uint32] | None:
        left = self.places[len(self.accepted) :]
        return allowed_mask(self.n_vocab, left[0] if left else self.ends)

    def accept(self, token: int) -> None:
        assert token in self.places[len(self.accepted)]
        self.accepted.append(token)

    def forced(self) -> list[int]:
        forced: list[int] = []
        for place in self.places[len(self.accepted) :]:
            if len(place) > 1:
                break
            forced += place
        return forced

    def count_allowed(self, tokens: Sequence[int]) -> int:
        places = self.places[len(self.accepted) :]
        allowed = [token in place for token, place in zip(tokens, places, strict=False)]
        return [*allowed, False].index(False)

    def lookahead(self, tokens: Sequence[int], _n_most: int) -> npt.NDArray[np.uint32] | None:
        places = [*self.places[len(self.accepted) :], self.ends][: len(tokens) + 1]
        return allowed_mask(self.n_vocab, [token for place in places for token in place])

    @property
    def done(self) -> bool:
        return len(self.accepted) == len(self.places)


def run(model: CommandR, **options: Any) -> Generation:
    """A reply to PROMPT, which is evaluated in the same way each time."""
    model.session.seq_rm(0)
    everything: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 60} | options
    result = generate(model.session, model.tokenizer, PROMPT, **everything)
    assert isinstance(result, Generation)
    return result


def same(a: Generation, b: Generation) -> bool:
    """Whether two replies are the same but for how they came about, and for rounding in logarithms."""
    first, second = (
        np.array([(item.logprob, *(value for _, value in item.top)) for item in one.logprobs]) for one in (a, b)
    )
    return (
        (a.text, a.tokens, a.finish_reason) == (b.text, b.tokens, b.finish_reason)
        and [item.token for item in a.logprobs] == [item.token for item in b.logprobs]
        and np.allclose(first, second, rtol=0, atol=5e-3)
    )


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("wrong", [10**9, 5])
@pytest.mark.parametrize("top_logprobs", [None, 2])
def test_drafts_change_no_reply(
    model: CommandR, sampling: SamplingParams, wrong: int, top_logprobs: int | None
) -> None:
    plain = run(model, sampling=sampling, top_logprobs=top_logprobs)
    drafted = run(model, sampling=sampling, top_logprobs=top_logprobs, drafter=Teacher(plain.tokens, wrong=wrong))
    assert same(plain, drafted)
    assert drafted.timings.decode_evaluations < plain.timings.decode_evaluations / 2
    assert drafted.timings.decode_tokens == plain.timings.decode_tokens == 59


@pytest.mark.parametrize("max_tokens", [0, 1, 2, 3, 11, 12])
def test_max_tokens_in_the_middle_of_a_draft(model: CommandR, max_tokens: int) -> None:
    text = run(model).tokens
    drafted = run(model, max_tokens=max_tokens, drafter=Teacher(text))
    assert (drafted.tokens, drafted.finish_reason) == (text[:max_tokens], "length")
    assert drafted.usage.completion_tokens == max_tokens
    assert model.session.seq_tokens() == [*PROMPT, *text[: max(0, max_tokens - 1)]]


def test_end_tokens_in_the_middle_of_a_draft(model: CommandR) -> None:
    """Both one that the draft guesses and one that it does not."""
    end = model.tokenizer.special_ids["<|END_OF_TURN_TOKEN|>"]
    text = run(model).tokens
    bias = SamplingParams(temperature=0, logit_bias={end: 1000.0})
    for n in (1, 4, 9):
        script = [[token] for token in text[:n]]

        class Ending(Script):
            def forced(self) -> list[int]:
                return []

            @property
            def done(self) -> bool:
                return False

        for guess in (text, [*text[:n], end, *text[n:]]):
            result = run(model, sampling=bias, constraint=Ending(model, script), drafter=Teacher(guess, n_max=14))
            assert (result.tokens, result.finish_reason) == (text[:n], "stop")


@pytest.mark.parametrize("length", [1, 3])
def test_stop_strings_in_the_middle_of_a_draft(model: CommandR, length: int) -> None:
    free = run(model)
    stop = free.text[30 : 30 + length]
    plain = run(model, stop=stop)
    drafted = run(model, stop=stop, drafter=Teacher(free.tokens, n_max=14))
    assert same(plain, drafted)
    assert drafted.finish_reason == "stop"
    assert drafted.usage.completion_tokens == len(drafted.tokens)
    assert drafted.usage.accepted_tokens < len(drafted.tokens)


def test_the_end_of_the_context_shortens_drafts() -> None:
    with CommandR(models.gguf("gqa"), n_ctx=64, n_threads=1) as small:
        plain = run(small, max_tokens=None)
        drafted = run(small, max_tokens=None, drafter=Teacher(plain.tokens))
        assert same(plain, drafted)
        assert drafted.usage.prompt_tokens + drafted.usage.completion_tokens == small.n_ctx + 1


def test_what_is_forced_ends_with_the_context() -> None:
    with CommandR(models.gguf("gqa"), n_ctx=64, n_threads=1) as small:
        for n_free in (1, 2, 30):
            small.session.seq_rm(0)
            prompt = [5] * (small.n_ctx - n_free)
            script = Script(small, [[30], [31, 32], *([40 + i] for i in range(60)), [50, 51]])
            result = generate(small.session, small.tokenizer, prompt, sampling=GREEDY, constraint=script)
            assert result.finish_reason == "length"
            assert len(prompt) + len(result.tokens) == small.n_ctx + 1
        too_long, script = [5] * (small.n_ctx + 1), Script(small, [[30], [31, 32]])
        with pytest.raises(ContextFullError):
            generate(small.session, small.tokenizer, too_long, constraint=script)


def test_drafts_do_not_depend_on_the_clock(model: CommandR) -> None:
    """Else the same seed could give another reply: evaluations of other lengths round otherwise."""
    prompt = PROMPT * 3
    usages = []
    for seconds in (0.0, 0.003, 0.0):
        model.session.seq_rm(0)
        rng = np.random.default_rng(int(1000 * seconds))

        def slow(_done: int, _total: int, seconds: float = seconds, rng: np.random.Generator = rng) -> None:
            time.sleep(seconds * rng.random())

        options: dict[str, Any] = {"sampling": SamplingParams(temperature=0.5, seed=4), "progress": slow}
        result = generate(
            model.session, model.tokenizer, prompt, max_tokens=150, drafter=PromptLookup(), stream=False, **options
        )
        usages.append((result.usage.drafted_tokens, result.usage.accepted_tokens, result.tokens))
    assert usages[0][0] > 0
    assert usages[0] == usages[1] == usages[2]


def test_close_from_another_thread_ends_the_reply_as_cancelled(model: CommandR) -> None:
    evaluating = threading.Event()
    options: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 400, "progress": lambda *_: evaluating.set()}
    stream = generate(model.session, model.tokenizer, PROMPT, stream=True, **options)
    assert isinstance(stream, GenerationStream)
    with ThreadPoolExecutor() as pool:
        result = pool.submit(stream.finish)
        assert evaluating.wait(60)
        stream.close()
        assert result.result(60).finish_reason == "cancelled"
    assert len(stream.result.tokens) < 400
    assert same(run(model), run(model))


def test_cells_of_other_sequences_leave_no_room_for_a_draft() -> None:
    with CommandR(models.gguf("gqa"), n_ctx=64, n_threads=1) as small:
        plain = run(small, max_tokens=6)
    with CommandR(models.gguf("gqa"), n_ctx=256, n_threads=1) as large:
        text = run(large, max_tokens=200).tokens
        assert plain.tokens == text[:6]
        with Session(large.model, n_ctx=256, n_seq_max=2, n_threads=1) as session:
            other = [5] * (session.n_ctx - len(PROMPT) - 5)
            session.eval(other, seq_id=1)
            result = generate(session, large.tokenizer, PROMPT, sampling=GREEDY, drafter=Teacher(text, n_max=14))
            assert (result.tokens, result.finish_reason) == (text[:6], "length")
            assert session.seq_tokens(1) == other


def test_a_cancelled_reply_ends_between_drafts(model: CommandR) -> None:
    text = run(model).tokens
    options: dict[str, Any] = {"sampling": GREEDY, "max_tokens": 60, "drafter": Teacher(text)}
    stream = generate(model.session, model.tokenizer, PROMPT, stream=True, **options)
    assert isinstance(stream, GenerationStream)
    next(stream)
    next(stream)
    stream.cancel()
    result = stream.finish()
    assert result.finish_reason == "cancelled"
    assert result.tokens == text[: len(result.tokens)]
    assert 1 < len(result.tokens) < 60
    assert same(run(model), run(model, drafter=Teacher(text)))


def test_guesses_are_counted(model: CommandR) -> None:
    text = run(model).tokens
    usage = run(model, drafter=Teacher(text, n_max=9)).usage
    # 1 token without a draft, then 9 guesses and one more each time: 5 times 10, and the last 9 of 8 guesses.
    assert (usage.completion_tokens, usage.drafted_tokens, usage.accepted_tokens) == (60, 53, 53)
    usage = run(model, drafter=Teacher(text, n_max=3, wrong=4)).usage
    assert usage.accepted_tokens < usage.drafted_tokens
    assert run(model).usage.drafted_tokens == 0


def test_a_drafter_at_work_learns_that_the_generation_is_cancelled(model: CommandR) -> None:
    answers: list[object] = []

    class Slow:
        def draft(self, _tokens: Sequence[int], _limit: Limit, go_on: GoOn | None = None) -> None:
            assert go_on is not None
            answers.append(go_on(1, 2))
            stream.cancel()
            answers.append(go_on(2, 2))

    model.session.seq_rm(0)
    options: dict[str, Any] = {"max_tokens": 9, "sampling": GREEDY, "stream": True}
    stream = generate(model.session, model.tokenizer, PROMPT, drafter=Slow(), **options)
    assert stream.finish().finish_reason == "cancelled"
    assert answers == [True, False]


def test_a_draft_of_no_tokens_is_none(model: CommandR) -> None:
    class Empty:
        def draft(self, _tokens: Sequence[int], _limit: Limit, _go_on: GoOn | None = None) -> Draft:
            return Draft([], Source("empty"))

    assert same(run(model), run(model, drafter=Empty()))


def test_a_draft_of_unknown_tokens_is_an_error(model: CommandR) -> None:
    with pytest.raises(ArgumentError, match="token .* is 9999999"):
        run(model, drafter=Teacher([9999999] * 60, wrong=50))


# ---- constraints


def test_forced_tokens_are_taken_without_sampling(model: CommandR) -> None:
    places = [[30], [31], [40, 41, 42], [32], [33], [34], [50, 51]]
    script = Script(model, places)
    result = run(model, constraint=script)
    assert result.tokens == script.accepted
    assert all(token in place for token, place in zip(result.tokens, places, strict=True))
    assert result.finish_reason == "stop"
    assert result.timings.decode_evaluations == 1  # the first evaluation gives 40 to 42 and what follows
    assert (result.timings.prefill_tokens, result.usage.cached_tokens) == (len(PROMPT), 0)
    # What is picked is the likeliest of what is allowed.
    logits = model.logits([*PROMPT, 30, 31])[-1]
    assert result.tokens[2] == max((40, 41, 42), key=lambda token: logits[token])


def test_forced_tokens_have_logprobs_when_they_are_wanted(model: CommandR) -> None:
    places = [[30], [40, 41, 42], [32], [33], [50, 51]]
    plain = run(model, constraint=Script(model, places))
    result = run(model, constraint=Script(model, places), top_logprobs=1)
    assert result.tokens == plain.tokens
    assert [entry.token for entry in result.logprobs] == result.tokens


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("top_logprobs", [None, 0])
def test_drafts_change_no_constrained_reply(
    model: CommandR, sampling: SamplingParams, top_logprobs: int | None
) -> None:
    rng = np.random.default_rng(8)
    places = [rng.integers(30, 600, int(rng.choice([1, 1, 3, 50]))).tolist() for _ in range(50)]
    options: dict[str, Any] = {"sampling": sampling, "top_logprobs": top_logprobs}
    plain = run(model, constraint=Script(model, places), **options)
    assert len(plain.tokens) == 50
    for wrong in (10**9, 4, 7):
        drafter = Teacher(plain.tokens, wrong=wrong)
        drafted = run(model, constraint=Script(model, places), drafter=drafter, **options)
        assert same(plain, drafted)
        assert drafted.timings.decode_evaluations < plain.timings.decode_evaluations


def test_max_tokens_in_the_middle_of_what_is_forced(model: CommandR) -> None:
    places = [[30], [31], [40, 41], [32], [33], [34]]
    for n in (1, 2, 3, 5):
        result = run(model, constraint=Script(model, places), max_tokens=n)
        assert (len(result.tokens), result.finish_reason) == (n, "length")


def test_stop_strings_in_the_middle_of_what_is_forced(model: CommandR) -> None:
    a, b, c = (model.tokenize(letter)[0] for letter in "abc")
    result = run(model, constraint=Script(model, [[a], [b], [c], [a], [b, c]]), stop="bc")
    assert (result.text, result.tokens, result.finish_reason) == ("a", [a, b, c], "stop")


def test_a_constraint_that_is_satisfied_ends_the_reply(model: CommandR) -> None:
    result = run(model, constraint=Script(model, [[30, 31]]))
    assert (len(result.tokens), result.finish_reason) == (1, "stop")
    result = run(model, constraint=Script(model, []))
    assert (result.tokens, result.finish_reason) == ([], "stop")


GRAMMAR = r"""
start: "Plan: " /[a-z ]{5,40}/ "\nAction: [" call ("," call)* "]"
call: "{\"tool_name\": \"" ("find_documents" | "find_people") "\", \"query\": \"" /[a-z0-9]{1,8}/ "\"}"
"""


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("top_logprobs", [None, 0])
def test_drafts_change_no_reply_under_a_grammar(
    model: CommandR, sampling: SamplingParams, top_logprobs: int | None
) -> None:
    engine = ConstraintEngine(model.tokenizer, model.model.hparams.n_vocab)
    options: dict[str, Any] = {"sampling": sampling, "top_logprobs": top_logprobs, "max_tokens": 150}
    plain = run(model, constraint=engine.constraint(GRAMMAR), **options)
    assert plain.text.startswith("Plan: ")
    assert '\nAction: [{"tool_name": "find_' in plain.text
    for drafter in (Teacher(plain.tokens), Teacher(plain.tokens, wrong=4)):
        drafted = run(model, constraint=engine.constraint(GRAMMAR), drafter=drafter, **options)
        assert same(plain, drafted)
        assert drafted.timings.decode_evaluations < plain.timings.decode_evaluations


def test_what_a_constraint_forbids_is_not_verified(model: CommandR) -> None:
    places = [[30, 31], [40, 41], [50, 51], [60, 61]]
    plain = run(model, constraint=Script(model, places))
    wrong = [*plain.tokens[:2], 99, plain.tokens[3]]
    drafted = run(model, constraint=Script(model, places), drafter=Teacher(wrong, wrong=10**6))
    assert drafted.tokens == plain.tokens
    # The second token alone of the first draft, and the fourth in the next.
    assert (drafted.usage.drafted_tokens, drafted.usage.accepted_tokens) == (2, 2)
