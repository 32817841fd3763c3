"""How many tokens of prompts a step may have."""

from __future__ import annotations

import pytest

from commandr_gguf.server.budget import PrefillBudget


def test_without_a_reply_being_written_a_step_takes_the_most() -> None:
    assert PrefillBudget(300).tokens(0) == 300


def test_before_anything_was_measured_a_step_takes_the_least() -> None:
    budget = PrefillBudget(300, n_least=16)
    assert budget.tokens(1) == 16
    budget.add(1, 0, 0.1)
    assert budget.tokens(1) == 16
    assert PrefillBudget(8, n_least=16).tokens(1) == 8


@pytest.mark.parametrize(("token_seconds", "expected"), [(0.01, 15 + 1), (0.0025, 60), (0.001, 150), (0.0001, 512)])
def test_a_step_with_prompts_takes_a_few_times_what_it_takes_without(token_seconds: float, expected: int) -> None:
    budget = PrefillBudget(512, n_least=16, slowdown=2.5)
    for _ in range(40):
        budget.add(4, 0, 0.1)
        n_tokens = budget.tokens(4)
        budget.add(4, n_tokens, 0.1 + n_tokens * token_seconds)
    assert budget.tokens(4) == pytest.approx(expected, abs=1)


def test_prompts_alone_tell_what_a_token_costs() -> None:
    budget = PrefillBudget(512)
    budget.add(0, 100, 1.0)
    budget.add(2, 0, 0.2)
    assert budget.tokens(2) == 30
