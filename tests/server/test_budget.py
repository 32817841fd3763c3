"""How many tokens of prompts a step may have."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from commandr_gguf.server.budget import PrefillBudget


def test_without_a_reply_being_written_a_step_takes_the_most() -> None:
    assert PrefillBudget(300).tokens(0) == 300


def test_before_anything_was_measured_a_step_goes_without_prompts_then_takes_the_least() -> None:
    budget = PrefillBudget(300, n_least=16)
    assert budget.tokens(1) == 0
    budget.add(1, 0, 0.1)
    assert budget.tokens(1) == 16
    assert budget.tokens(2) == 0
    small = PrefillBudget(8, n_least=16)
    small.add(1, 0, 0.1)
    assert small.tokens(1) == 8


@pytest.mark.parametrize(("token_seconds", "expected"), [(0.01, 15), (0.0025, 60), (0.001, 150), (0.0001, 512)])
def test_a_step_with_prompts_takes_a_few_times_what_it_takes_without(token_seconds: float, expected: int) -> None:
    budget = PrefillBudget(512, slowdown=2.5)
    for _ in range(40):
        budget.add(4, 0, 0.1)
        n_tokens = budget.tokens(4)
        budget.add(4, n_tokens, 0.1 + n_tokens * token_seconds)
    assert budget.tokens(4) == pytest.approx(expected, abs=1)


def test_prompts_alone_tell_what_a_token_costs() -> None:
    budget = PrefillBudget(512, n_least=4, slowdown=2.5)
    budget.add(0, 100, 1.0)
    budget.add(2, 0, 0.2)
    assert budget.tokens(2) == 4
    for _ in range(4):
        budget.add(2, budget.tokens(2), 0.2 + budget.tokens(2) * 0.01)
    assert budget.tokens(2) == 30


def test_few_tokens_that_cost_next_to_nothing_do_not_lead_to_many_at_once() -> None:
    budget = PrefillBudget(512)
    budget.add(1, 0, 0.1)
    budget.add(1, 4, 0.1001)
    assert budget.tokens(1) == 8


def test_what_turns_out_to_be_too_much_is_mended_within_a_few_steps() -> None:
    budget = PrefillBudget(512, slowdown=2.5)
    for _ in range(20):
        budget.add(4, 0, 0.1)
        budget.add(4, budget.tokens(4), 0.1 + budget.tokens(4) * 0.001)
    assert budget.tokens(4) == pytest.approx(150, abs=1)
    for _ in range(3):
        budget.add(4, budget.tokens(4), 0.1 + budget.tokens(4) * 0.004)
    assert budget.tokens(4) == pytest.approx(37, abs=1)


def test_steps_that_something_held_up_change_nothing() -> None:
    budget = PrefillBudget(512, slowdown=2.5)
    for seconds in (0.1, 0.1, 0.9, 0.1, 0.1):
        budget.add(4, 0, seconds)
    for seconds in (0.256, 0.256, 0.9, 0.256, 0.256):
        budget.add(4, 256, 0.1 + seconds)
    assert budget.tokens(4) == pytest.approx(150, abs=1)


def test_many_prompts_get_more_than_one_beside_few_replies() -> None:
    budget = PrefillBudget(512, slowdown=2.5)
    budget.add(2, 0, 0.1)
    budget.add(2, 256, 0.1 + 256 * 0.002)
    assert budget.tokens(2, 1) == budget.tokens(2, 2) == pytest.approx(75, abs=1)
    assert budget.tokens(2, 6) == pytest.approx(225, abs=1)
    for _ in range(5):
        budget.add(2, 8, 10.0)
    assert (budget.tokens(2, 1), budget.tokens(2, 6), budget.tokens(2, 12)) == (4, 12, 24)


# What n tokens at once take in the time of one: of the 8B shape, where a token alone waits for its weights to be read.
COLUMNS = ((1, 1.0), (2, 1.22), (4, 1.64), (8, 2.35), (12, 3.28), (15, 4.46), (512, 140.0))


def step_time(n_writing: int, n_tokens: int, n_read: int) -> float:
    n, counts = n_writing + n_tokens, [n for n, _ in COLUMNS]
    alone = float(np.interp(n, counts, [time for _, time in COLUMNS]))
    return alone + n_tokens * 0.1 * n_read / 4096  # attention to what was read already


@pytest.mark.parametrize("n_writing", [1, 4, 15])
def test_a_newcomer_with_a_long_prompt_holds_no_token_up_for_three_times_its_time(n_writing: int) -> None:
    rng = random.Random(0)
    budget = PrefillBudget(512)
    budget.add(0, 512, step_time(0, 512, 0))
    quiet, gaps, n_read = [], [], 0
    for _ in range(20):
        quiet.append(step_time(n_writing, 0, 0) * rng.lognormvariate(0, 0.05))
        budget.add(n_writing, 0, quiet[-1])
    while n_read < 4096:
        n_tokens = budget.tokens(n_writing)
        gaps.append(step_time(n_writing, n_tokens, n_read) * rng.lognormvariate(0, 0.05))
        budget.add(n_writing, n_tokens, gaps[-1])
        n_read += n_tokens
    assert np.quantile(gaps, 0.99) <= 3 * statistics.median(quiet)
    alone = 8 * step_time(0, 512, 2048)
    assert sum(gaps) <= 2.7 * alone


def test_steps_that_nobody_notices_take_what_fits_into_that_time() -> None:
    budget = PrefillBudget(512, slowdown=1.9, unnoticed=0.02)
    for _ in range(8):
        budget.add(4, 0, 0.002)
        n_tokens = budget.tokens(4)
        budget.add(4, n_tokens, 0.002 + n_tokens * 0.0001)
    assert budget.tokens(4) == pytest.approx(180, abs=1)
