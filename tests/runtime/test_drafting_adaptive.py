"""The length of drafts, on simulated machines."""

from __future__ import annotations

import numpy as np
import pytest

from commandr_gguf.drafting.adaptive import ROW_COST, DraftLength
from commandr_gguf.drafting.drafter import Source

SOURCE = Source("simulated")
MOST = 14


class Machine:
    """Evaluations take 1 second, and row_cost for each further token; drafted tokens are right by chance."""

    def __init__(self, row_cost: float, stated: float | None = None) -> None:
        """`stated`: the row cost that lengths are chosen by, where it is not the machine's."""
        self.row_cost = row_cost
        self.length = DraftLength(row_cost if stated is None else stated)
        self.rng = np.random.default_rng(2)
        self.lengths: list[int] = []

    def seconds(self, source: Source, n_drafted: int) -> float:
        """Of one evaluation and its draft."""
        return 1 + n_drafted * (self.row_cost + source.cost)

    def run(self, n_tokens: int, acceptance: float, source: Source = SOURCE) -> float:
        """Seconds for each of n_tokens."""
        clock = 0.0
        left = n_tokens
        while left > 0:
            n = self.length.limit(source, MOST)
            self.lengths.append(n)
            clock += self.seconds(source, n)
            right = int(np.argmin([*(self.rng.random(n) < acceptance), False]))
            if n:
                self.length.add(source, n, right)
            left -= right + 1
        return clock / n_tokens

    def best(self, acceptance: float, source: Source = SOURCE) -> float:
        """Seconds for each token with the best fixed length."""
        return min(self.seconds(source, n) / sum(acceptance**i for i in range(n + 1)) for n in range(MOST + 1))


@pytest.mark.parametrize("acceptance", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("row_cost", [0.01, 0.1, 0.3])
def test_speed_comes_near_the_best_fixed_length(row_cost: float, acceptance: float) -> None:
    machine = Machine(row_cost)
    assert machine.run(3000, acceptance) < 1.15 * machine.best(acceptance)


@pytest.mark.parametrize("acceptance", [0.3, 0.8, 0.95])
@pytest.mark.parametrize(
    ("row_cost", "stated"),
    [
        *((cost, ROW_COST["packed"]) for cost in (0.08, 0.1, 0.25, 0.4)),
        *((cost, ROW_COST["cpu"]) for cost in (0.3, 0.6)),
        (0.03, ROW_COST["gpu"]),
    ],
)
def test_a_cost_that_is_stated_roughly_loses_little(row_cost: float, stated: float, acceptance: float) -> None:
    machine = Machine(row_cost, stated)
    assert machine.run(3000, acceptance) < 1.25 * machine.best(acceptance)


@pytest.mark.parametrize(("row_cost", "acceptance"), [(0.25, 0.02), (0.9, 0.6), (1.1, 0.98)])
def test_drafts_that_do_not_pay_cost_little(row_cost: float, acceptance: float) -> None:
    assert Machine(row_cost).run(3000, acceptance) < 1.05


def test_a_slow_drafter_is_not_asked_for_much() -> None:
    slow = Source("slow", cost=0.5)
    machine = Machine(0.05)
    assert machine.run(3000, 0.9, slow) < 1.15 * machine.best(0.9, slow)
    assert machine.run(3000, 0.3, slow) < 1.1


@pytest.mark.parametrize("acceptance", [0.9, 1.0])
@pytest.mark.parametrize("cost", [1.0, 2.0])
def test_a_drafter_that_is_right_but_dear_is_given_up(cost: float, acceptance: float) -> None:
    dear = Source("dear", cost=cost)
    assert Machine(0.25).run(3000, acceptance, dear) < 1.05


def test_lengths_follow_what_is_accepted() -> None:
    machine = Machine(0.2)
    lengths = []
    for acceptance in (0.98, 0.5, 0.98):
        machine.run(1000, acceptance)
        lengths.append(np.mean(machine.lengths[-30:]))
    assert lengths[0] > 8
    assert lengths[1] < 3
    assert lengths[2] > 8


def test_drafting_is_tried_again() -> None:
    machine = Machine(0.25)
    machine.run(1000, 0.0)
    assert sum(machine.lengths) < 60
    machine.run(300, 0.98)  # the longest pause
    assert machine.run(300, 0.98) < 0.5


def test_sources_are_counted_one_by_one() -> None:
    machine = Machine(0.2)
    good, bad = Source("good"), Source("bad")
    machine.run(300, 0.98, good)
    machine.run(300, 0.02, bad)
    assert machine.length.limit(good, MOST) > 8
    assert machine.length.limit(bad, MOST) <= 4


def test_no_draft_is_longer_than_its_room() -> None:
    length = DraftLength()
    assert length.limit(SOURCE, MOST) > 1
    assert length.limit(SOURCE, 1) == 1
    assert length.limit(SOURCE, 0) == length.limit(SOURCE, -1) == 0


def test_what_is_computed_in_any_case_makes_drafts_cheaper() -> None:
    unsure = Source("unsure", 0.2)
    assert DraftLength(0.3).limit(unsure, MOST) == 0
    assert DraftLength(0.1).limit(unsure, MOST) > 0
    sure = Source("sure", 0.8)
    assert DraftLength(0.3).limit(sure, MOST, n_pending=6) > DraftLength(0.3).limit(sure, MOST)


def test_an_expected_acceptance_counts_until_there_is_one() -> None:
    length = DraftLength()
    assert length.limit(Source("sure", 0.95), MOST) > length.limit(Source("unsure", 0.5), MOST) > 0
    assert length.limit(Source("hopeless", 0.05), MOST) == 0
