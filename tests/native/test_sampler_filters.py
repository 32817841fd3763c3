"""Each filter alone and combined, draw by draw, against a plain float64 reference with the same random numbers."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from sampling import Floats, Sampler, survivors, uniforms

N_VOCAB = 256_000

FILTERS: list[dict[str, float]] = [
    {},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 1900},
    {"top_k": 5000},
    {"top_k": 300_000},
    {"top_p": 0.0},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 1.0},
    {"min_p": 0.3},
    {"min_p": 1e-3},
    {"typical_p": 0.0},
    {"typical_p": 0.2},
    {"typical_p": 0.95},
    {"top_k": 100, "typical_p": 0.5},
    {"top_k": 60, "top_p": 0.7},
    {"top_k": 500, "min_p": 0.05},
    {"top_p": 0.8, "min_p": 0.1},
    {"top_p": 0.5, "min_p": 1e-4},
    {"typical_p": 0.7, "top_p": 0.6},
    {"typical_p": 0.4, "min_p": 0.5},
    {"top_k": 2000, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.02},
    {"typical_p": 0.9, "top_p": 0.95, "min_p": 0.02},
]


def flat(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def peaked(n: int, seed: int) -> Floats:
    """A model that is fairly sure: some tokens far above the rest."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal(n) * 2 - 3
    logits[rng.choice(n, min(n, 40), replace=False)] += rng.uniform(5, 17, min(n, 40))
    return logits.astype(np.float32)


def check_draws(logits: Floats, n_draws: int, **params: float) -> None:
    """Every draw is the reference's, unless its random number falls between two tokens but for rounding."""
    sampler = Sampler(len(logits), **params)
    ids, probabilities = survivors(logits, sampler.params)
    sums = np.cumsum(probabilities)
    numbers = uniforms(1)
    for _ in range(n_draws):
        uniform = next(numbers)
        low, high = np.searchsorted(sums, [uniform - 3e-7, uniform + 3e-7], side="right").clip(0, len(ids) - 1)
        token = sampler.sample(logits)
        assert token in ids[low : high + 1], f"{token} instead of {ids[low : high + 1]} of {len(ids)}"


@pytest.mark.parametrize("params", FILTERS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("n_vocab", [1, 2, 127, 129, 1000, 5003])
def test_draws_are_those_of_the_reference(n_vocab: int, temperature: float, params: dict[str, float]) -> None:
    for seed in (1, 2):
        check_draws(flat(n_vocab, seed), 60, temperature=temperature, **params)
        check_draws(peaked(n_vocab, seed), 60, temperature=temperature, **params)


@pytest.mark.parametrize("params", FILTERS, ids=str)
@pytest.mark.parametrize("distribution", [flat, peaked])
def test_draws_over_the_whole_vocabulary(distribution: Any, params: dict[str, float]) -> None:
    check_draws(distribution(N_VOCAB, 3), 100, temperature=0.8, **params)


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_draws_with_forbidden_tokens(params: dict[str, float]) -> None:
    logits = peaked(6000, 4)
    logits[np.random.default_rng(5).random(6000) < 0.7] = -np.inf
    check_draws(logits, 100, **params)


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_tokens_that_can_be_drawn(params: dict[str, float]) -> None:
    """On a small vocabulary, all that can be drawn is drawn, and nothing else."""
    logits = flat(24, 6)
    sampler = Sampler(24, temperature=1.5, **params)
    expected, probabilities = survivors(logits, sampler.params)
    assert probabilities.min() > 0.004
    assert {sampler.sample(logits) for _ in range(6000)} == set(expected.tolist())


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"top_k": 3}, {0, 2, 3}),
        ({"top_p": 0.5}, {0, 2}),
        ({"top_p": 0.6}, {0, 2, 3}),
        ({"top_p": 0.25}, {0}),
        ({"min_p": 1.0}, {0, 2}),
        ({"typical_p": 1e-6}, {3}),
    ],
    ids=str,
)
def test_of_equal_tokens_the_first_stay(params: dict[str, float], expected: set[int]) -> None:
    logits = np.log(np.array([4, 1, 4, 2, 2, 2], np.float64)).astype(np.float32)
    sampler = Sampler(6, **params)
    assert {sampler.sample(logits) for _ in range(2000)} == expected


def test_many_equal_logits() -> None:
    logits = np.zeros(N_VOCAB, np.float32)
    for params, n in (({"top_k": 10}, 10), ({"top_k": 100_000}, 100_000), ({"top_p": 0.25}, 64_000)):
        sampler = Sampler(N_VOCAB, **params)
        drawn = [sampler.sample(logits) for _ in range(100)]
        assert max(drawn) < n
        assert max(drawn) > 0.9 * n - 1


def test_extreme_logits_and_temperatures() -> None:
    logits = np.array([3e38, -3e38, 2.9e38, -np.inf, 0.0] * 2000, np.float32)
    for params in FILTERS:
        for temperature in (1e-45, 1e-30, 1.0, 3e38):
            token = Sampler(len(logits), temperature=temperature, **params).sample(logits)
            assert logits[token] == np.float32(3e38) or temperature > 1


def test_a_token_takes_less_than_a_millisecond() -> None:
    """Some tens of microseconds on an idle machine; the best of many calls, as this one may be busy."""
    logits = peaked(N_VOCAB, 7)
    for params in ({"temperature": 0.0}, {"top_k": 40, "top_p": 0.95}, {"top_k": 40, "typical_p": 0.9, "min_p": 0.05}):
        sampler = Sampler(N_VOCAB, **params)
        times = []
        for _ in range(50):
            start = time.perf_counter()
            sampler.sample(logits)
            times.append(time.perf_counter() - start)
        assert min(times) < 1e-3
