"""The length of drafts, on simulated machines."""

from __future__ import annotations

import numpy as np
import pytest

from commandr_gguf.drafting.adaptive import DraftLength
from commandr_gguf.drafting.drafter import Source

SOURCE = Source("simulated")
MOST = 14


class Machine:
    """Evaluations take 1 second and row_cost for each token beyond n_free; drafted tokens are right by chance."""

    def __init__(self, row_cost: float, draft_cost: float = 0.0, noise: float = 0.0, n_free: int = 1) -> None:
        self.row_cost = row_cost
        self.draft_cost = draft_cost
        self.noise = noise
        self.n_free = n_free
        self.length = DraftLength()
        self.rng = np.random.default_rng(2)
        self.lengths: list[int] = []

    def evaluate(self, n_rows: int) -> float:
        """Seconds of an evaluation."""
        hiccup = 20.0 if self.rng.random() < self.noise else 1.0
        return self.seconds(n_rows) * hiccup

    def seconds(self, n_rows: int) -> float:
        """Without what else the machine does."""
        return 1 + self.row_cost * max(0, n_rows - self.n_free)

    def run(self, n_tokens: int, acceptance: float, source: Source = SOURCE) -> float:
        """Seconds for each of n_tokens."""
        clock = 0.0
        left = n_tokens
        while left > 0:
            n = self.length.limit(source, MOST)
            self.lengths.append(n)
            seconds = self.evaluate(n + 1)
            clock += seconds + n * self.draft_cost
            if n == 0:
                self.length.costs.add(1, seconds)
                left -= 1
                continue
            right = int(np.argmin([*(self.rng.random(n) < acceptance), False]))
            self.length.add(source, n, right, n + 1, seconds, n * self.draft_cost)
            left -= right + 1
        return clock / n_tokens

    def best(self, acceptance: float) -> float:
        """Seconds for each token with the best fixed length."""
        return min(
            (self.seconds(n + 1) + self.draft_cost * n) / sum(acceptance**i for i in range(n + 1))
            for n in range(MOST + 1)
        )


@pytest.mark.parametrize("acceptance", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("row_cost", [0.01, 0.1, 0.3])
def test_speed_comes_near_the_best_fixed_length(row_cost: float, acceptance: float) -> None:
    machine = Machine(row_cost)
    assert machine.run(3000, acceptance) < 1.15 * machine.best(acceptance)


@pytest.mark.parametrize("acceptance", [0.3, 0.5, 0.9])
def test_tokens_that_cost_nothing_are_drafted(acceptance: float) -> None:
    machine = Machine(0.4, n_free=3)
    assert machine.run(3000, acceptance) < 1.1 * machine.best(acceptance)


@pytest.mark.parametrize(("row_cost", "acceptance"), [(0.25, 0.02), (0.9, 0.6), (1.1, 0.98)])
def test_drafts_that_do_not_pay_cost_little(row_cost: float, acceptance: float) -> None:
    assert Machine(row_cost).run(3000, acceptance) < 1.05


def test_a_slow_drafter_is_not_asked_for_much() -> None:
    machine = Machine(0.05, draft_cost=0.5)
    assert machine.run(3000, 0.9) < 1.15 * machine.best(0.9)
    assert machine.run(3000, 0.3) < 1.1


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


def test_the_machine_may_do_something_else_once() -> None:
    quiet, noisy = Machine(0.2), Machine(0.2, noise=0.03)
    quiet.run(1000, 0.9)
    noisy.run(1000, 0.9)
    assert np.mean(noisy.lengths) == pytest.approx(np.mean(quiet.lengths), rel=0.25)


def test_sources_are_counted_one_by_one() -> None:
    machine = Machine(0.2)
    good, bad = Source("good"), Source("bad")
    machine.run(300, 0.98, good)
    machine.run(300, 0.02, bad)
    assert machine.length.limit(good, MOST) > 8
    assert machine.length.limit(bad, MOST) <= 4


def test_nothing_is_drafted_before_plain_decoding_was_measured_or_without_room() -> None:
    length = DraftLength()
    assert length.limit(SOURCE, MOST) == 0
    length.costs.add(1, 0.1)
    assert length.limit(SOURCE, MOST) > 0
    assert length.limit(SOURCE, 1) == 1
    assert length.limit(SOURCE, 0) == length.limit(SOURCE, -1) == 0


def test_an_expected_acceptance_counts_until_there_is_one() -> None:
    length = DraftLength()
    length.costs.add(1, 0.1)
    assert length.limit(Source("sure", 0.95), MOST) > length.limit(Source("unsure", 0.5), MOST) > 0
    assert length.limit(Source("hopeless", 0.05), MOST) == 0
