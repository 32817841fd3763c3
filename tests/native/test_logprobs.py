"""commandr_logprobs against numpy in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from commandr_gguf._native import ffi, lib
from sampling import Floats, SamplerError, check

INF = float("inf")


def logprobs(logits: Floats, token: int, n_top: int) -> tuple[float, list[int], Floats]:
    own = ffi.new("float *")
    ids, values = ffi.new("int32_t[]", max(n_top, 1)), np.zeros(max(n_top, 1), np.float32)
    row = ffi.from_buffer("float[]", logits)
    check(lib.commandr_logprobs(row, len(logits), token, own, n_top, ids, ffi.from_buffer("float[]", values)))
    return own[0], list(ids)[:n_top], values[:n_top]


def reference(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


@pytest.mark.parametrize("n_vocab", [1, 2, 127, 128, 129, 4097, 256_000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_agrees_with_numpy(n_vocab: int, scale: float) -> None:
    logits = (np.random.default_rng(n_vocab).standard_normal(n_vocab) * scale).astype(np.float32)
    expected = reference(logits)
    order = np.argsort(-logits, kind="stable")
    for n_top in sorted({0, 1, min(5, n_vocab), min(20, n_vocab), min(n_vocab, 3000)}):
        for token in (0, n_vocab // 2, n_vocab - 1):
            own, ids, values = logprobs(logits, token, n_top)
            np.testing.assert_allclose(own, expected[token], rtol=2e-7, atol=3e-7)
            assert ids == order[:n_top].tolist()
            np.testing.assert_allclose(values, expected[ids], rtol=2e-7, atol=3e-7)


def test_whole_vocabulary_with_ties_in_falling_order() -> None:
    logits = np.random.default_rng(1).integers(0, 9, 5000).astype(np.float32)
    _, ids, _ = logprobs(logits, 0, 5000)
    assert ids == np.argsort(-logits, kind="stable").tolist()


def test_infinite_logits() -> None:
    own, ids, values = logprobs(np.array([1, -INF, 1, -INF], np.float32), 1, 4)
    assert own == -INF
    assert ids == [0, 2, 1, 3]
    np.testing.assert_allclose(values, [np.log(0.5), np.log(0.5), -INF, -INF], rtol=1e-6)
    own, ids, values = logprobs(np.array([1, INF, 5, INF], np.float32), 1, 3)
    np.testing.assert_allclose(own, np.log(0.5), rtol=1e-6)
    assert ids == [1, 3, 2]
    np.testing.assert_allclose(values, [np.log(0.5), np.log(0.5), -INF], rtol=1e-6)


@pytest.mark.parametrize(
    ("logits", "token", "n_top", "message"),
    [
        ([0, np.nan], 0, 1, "a logit is not a number"),
        ([-INF, -INF], 0, 1, "every logit is -infinity"),
        ([0, 1], 2, 1, "token 2 is outside the vocabulary of 2"),
        ([0, 1], -1, 1, "token -1 is outside"),
        ([0, 1], 0, 3, "n_top is 3; it must be 0 to 2"),
        ([0, 1], 0, -1, "n_top is -1"),
        ([], 0, 0, "needs 1 to"),
    ],
)
def test_refusals(logits: list[float], token: int, n_top: int, message: str) -> None:
    with pytest.raises(SamplerError, match=message) as error:
        logprobs(np.array(logits, np.float32), token, n_top)
    assert error.value.status == lib.COMMANDR_ERROR_ARGUMENT


def test_places_for_the_results_are_needed() -> None:
    logits, own = ffi.new("float[2]"), ffi.new("float *", 77)
    assert lib.commandr_logprobs(logits, 2, 0, ffi.NULL, 0, ffi.NULL, ffi.NULL) == lib.COMMANDR_ERROR_ARGUMENT
    assert lib.commandr_logprobs(logits, 2, 0, own, 1, ffi.NULL, ffi.NULL) == lib.COMMANDR_ERROR_ARGUMENT
    assert lib.commandr_logprobs(ffi.NULL, 2, 0, own, 0, ffi.NULL, ffi.NULL) == lib.COMMANDR_ERROR_ARGUMENT
    assert own[0] == 77
    assert lib.commandr_logprobs(logits, 2, 0, own, 0, ffi.NULL, ffi.NULL) == lib.COMMANDR_OK
