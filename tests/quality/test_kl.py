"""Divergences beside plain Python arithmetic."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from commandr_gguf.quality import log_probs
from commandr_gguf.quality.kl import Divergence, divergence

Logits = npt.NDArray[np.float32]


def compare(base: Logits, model: Logits) -> Divergence:
    targets = np.arange(len(base), dtype=np.int32) % base.shape[1]
    codes = log_probs.encode_rows(base, log_probs.log_sum_exp(base))
    return divergence(codes, model, log_probs.log_sum_exp(model), targets)


def plain_log_softmax(row: Logits) -> list[float]:
    top = float(row.max())
    total = top + math.log(math.fsum(math.exp(float(x) - top) for x in row))
    return [float(x) - total for x in row]


def plain_kl(base: Logits, model: Logits) -> float:
    """Without any rounding, and over all tokens."""
    pairs = zip(plain_log_softmax(base), plain_log_softmax(model), strict=True)
    return math.fsum(math.exp(b) * (b - p) for b, p in pairs)


def random_pair(n_vocab: int, change: float, spread: float = 2.0) -> tuple[Logits, Logits]:
    random = np.random.default_rng(n_vocab)
    base = random.normal(size=(6, n_vocab)) * spread
    return base.astype(np.float32), (base + change * random.normal(size=base.shape)).astype(np.float32)


@pytest.mark.parametrize("n_vocab", [2, 33, 256, 1001])
def test_kl_is_that_of_plain_arithmetic(n_vocab: int) -> None:
    base, model = random_pair(n_vocab, change=0.5)
    found = compare(base, model)
    expected = [plain_kl(b, p) for b, p in zip(base, model, strict=True)]
    np.testing.assert_allclose(found.kl, expected, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(found.excess, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("spread", [0.1, 2.0, 10.0])
def test_a_model_does_not_diverge_from_itself_but_for_the_rounding(spread: float) -> None:
    base, _ = random_pair(1001, 0, spread)
    found = compare(base, base)
    step = spread * 16 / 65535
    assert np.abs(found.kl).max() < step
    assert found.excess.min() >= -1e-12
    assert found.excess.max() < 1e-7
    assert found.same_top.all()


def test_small_divergences_survive_the_rounding_in_the_excess() -> None:
    base, model = random_pair(256, change=1e-3)
    expected = math.fsum(plain_kl(b, p) for b, p in zip(base, model, strict=True))
    assert compare(base, model).excess.sum() == pytest.approx(expected, rel=0.1)
    assert expected < 1e-5


def test_tokens_that_the_base_gives_e_16_or_less_are_left_out() -> None:
    """They are many, and their stored log-probability says nothing of how unlikely they are."""
    base = np.array([[0] + 5000 * [-30]], np.float32)
    model = np.zeros_like(base)
    expected = plain_log_softmax(base[0])[0] - plain_log_softmax(model[0])[0]
    found = compare(base, model)
    assert found.kl[0] == pytest.approx(expected, abs=4e-6)
    assert found.excess[0] == pytest.approx(expected - 1 + 1 / 5001, abs=4e-6)


def test_the_nll_of_the_base_and_the_most_likely_tokens_are_compared_row_by_row() -> None:
    base = np.array([[1, 2, 3], [3, 2, 1], [1, 3, 2]], np.float32)
    model = np.array([[0, 0, 9], [0, 9, 0], [0, 9, 0]], np.float32)
    found = compare(base, model)
    assert found.same_top.tolist() == [True, False, True]
    expected = [-plain_log_softmax(row)[i] for i, row in enumerate(base)]
    np.testing.assert_allclose(found.base_nll, expected, atol=1e-4)


def test_parts_join_in_their_order() -> None:
    base, model = random_pair(33, change=0.5)
    whole = compare(base, model)
    joined = Divergence.join([compare(base[:2], model[:2]), compare(base[2:], model[2:])])
    np.testing.assert_array_equal(joined.kl, whole.kl)
    np.testing.assert_array_equal(joined.same_top, whole.same_top)
