"""The best options within a number of bytes, against trying them all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.allocation import Option, allocate, smallest

OPTIONS = st.lists(st.builds(Option, st.integers(1, 40), st.floats(0, 10)), min_size=1, max_size=4)


def size_and_cost(items: list[list[Option]], chosen: list[int]) -> tuple[int, float]:
    taken = [options[i] for options, i in zip(items, chosen, strict=True)]
    return sum(option.n_bytes for option in taken), sum(option.cost for option in taken)


@given(st.lists(OPTIONS, max_size=5), st.integers(0, 120))
def test_options_fit_and_no_one_or_two_changes_are_better(items: list[list[Option]], extra: int) -> None:
    budget = smallest(items) + extra
    chosen = allocate(items, budget)
    size, cost = size_and_cost(items, chosen)
    assert size <= budget
    for other in itertools.product(*(range(len(options)) for options in items)):
        changed = sum(a != b for a, b in zip(other, chosen, strict=True))
        other_size, other_cost = size_and_cost(items, list(other))
        assert changed > 2 or other_size > budget or other_cost >= cost - 1e-9 * max(1, cost)


def test_near_the_optimum_of_many_items() -> None:
    """The optimum is at least the bound of linear relaxation, which dynamic programming confirms to be near."""
    random = np.random.default_rng(0)
    items = [
        [Option(int(n * bits), float(s * 4.0**-bits)) for bits in (2, 3, 4, 5, 6, 8)]
        for n, s in zip(random.integers(1, 9, 30), 10 ** random.uniform(-2, 2, 30), strict=True)
    ]
    budget = smallest(items) * 2
    best = np.full(budget + 1, 0.0)
    for options in items:
        shifted = [
            np.concatenate([np.full(o.n_bytes, np.inf), best[: budget + 1 - o.n_bytes]]) + o.cost for o in options
        ]
        best = np.minimum.reduce(shifted)
    assert size_and_cost(items, allocate(items, budget))[1] <= best[budget] * 1.01


def test_the_same_every_time_and_everything_when_there_is_room() -> None:
    items = [[Option(1, 5.0), Option(2, 1.0), Option(3, 1.0)]] * 4
    assert allocate(items, 6) == allocate(items, 6)
    assert allocate(items, 100) == [1, 1, 1, 1]


def test_too_few_bytes() -> None:
    with pytest.raises(ValueError, match="7 bytes are the least, and there are 6"):
        allocate([[Option(3, 1.0)], [Option(4, 1.0), Option(5, 0.0)]], 6)
