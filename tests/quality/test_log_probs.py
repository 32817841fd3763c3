"""Log-probabilities beside plain Python arithmetic, and their 16-bit form beside a reading of the format by hand."""

from __future__ import annotations

import math
import struct

import numpy as np
import numpy.typing as npt
import pytest

from commandr_gguf.quality import log_probs

SIZES = (1, 2, 33, 256, 1001)


def random_logits(n_rows: int, n_vocab: int, spread: float = 3.0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(n_vocab).normal(size=(n_rows, n_vocab)) * spread).astype(np.float32)


def plain_log_sum(row: npt.NDArray[np.float32]) -> float:
    top = float(row.max())
    return top + math.log(math.fsum(math.exp(float(x) - top) for x in row))


@pytest.mark.parametrize("n_vocab", SIZES)
def test_log_sums_are_those_of_plain_arithmetic(n_vocab: int) -> None:
    logits = random_logits(5, n_vocab)
    expected = [plain_log_sum(row) for row in logits]
    np.testing.assert_allclose(log_probs.log_sum_exp(logits), expected, rtol=1e-14)


def test_log_sums_of_large_logits_neither_overflow_nor_vanish() -> None:
    logits = np.array([[1000, 1000], [-1000, -1000], [3e38, -3e38]], np.float32)
    expected = [1000 + math.log(2), -1000 + math.log(2), float(np.float32(3e38))]
    np.testing.assert_allclose(log_probs.log_sum_exp(logits), expected, rtol=1e-15)


def test_rows_in_many_blocks_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits(7, 100)
    sums = log_probs.log_sum_exp(logits)
    codes = log_probs.encode_rows(logits, sums)
    monkeypatch.setattr(log_probs, "_BLOCK", 250)  # two rows and a half
    np.testing.assert_array_equal(log_probs.log_sum_exp(logits), sums)
    np.testing.assert_array_equal(log_probs.encode_rows(logits, sums), codes)


def test_the_nll_is_that_of_the_token_that_follows() -> None:
    logits = random_logits(3, 9)
    nll = log_probs.target_nll(logits, log_probs.log_sum_exp(logits), np.array([8, 0, 4], np.int32))
    for row, token, found in zip(logits, (8, 0, 4), nll, strict=True):
        assert found == pytest.approx(plain_log_sum(row) - float(row[token]), rel=1e-14)


@pytest.mark.parametrize("n_vocab", SIZES)
def test_codes_lie_where_the_format_has_them(n_vocab: int) -> None:
    logits = random_logits(4, n_vocab)
    sums = log_probs.log_sum_exp(logits)
    data = log_probs.encode_rows(logits, sums).tobytes()
    padded = n_vocab + n_vocab % 2
    assert len(data) == 4 * (8 + 2 * padded)
    for i, row in enumerate(logits):
        scale, least, *codes = struct.unpack_from(f"<ff{padded}H", data, i * (8 + 2 * padded))
        low = max(float(row.min()), float(row.max()) - 16)
        assert scale == pytest.approx((float(row.max()) - low) / 65535, rel=1e-6)
        assert least == pytest.approx(low - sums[i], abs=2e-6)
        for j, logit in enumerate(row.tolist()):
            expected = (logit - low) / scale if logit > low and scale else 0
            assert abs(codes[j] - expected) <= 0.51
        assert codes[n_vocab:] == [0] * (n_vocab % 2)


@pytest.mark.parametrize("n_vocab", SIZES)
def test_codes_stand_for_the_log_probabilities_down_to_16_nats_below_the_top(n_vocab: int) -> None:
    logits = random_logits(6, n_vocab, spread=8)
    sums = log_probs.log_sum_exp(logits)
    decoded = log_probs.decode_rows(log_probs.encode_rows(logits, sums), n_vocab)
    exact = logits - sums[:, None]
    floor = exact.max(axis=1, keepdims=True) - 16
    assert n_vocab < 256 or (exact < floor).any()
    np.testing.assert_allclose(decoded, np.maximum(exact, floor), atol=0.51 * 16 / 65535 + 4e-6)


def test_a_row_of_equal_logits_is_uniform() -> None:
    logits = np.full((1, 5), 7, np.float32)
    codes = log_probs.encode_rows(logits, log_probs.log_sum_exp(logits))
    assert not codes[:, 4:].any()
    np.testing.assert_allclose(log_probs.decode_rows(codes, 5), -math.log(5), rtol=1e-6)
