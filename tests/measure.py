"""How far logits are from what they should be. Rows are positions, columns the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]


def relative_error(logits: Rows, expected: Rows) -> float:
    """The largest difference, in standard deviations of the expected logits."""
    return float(np.abs(logits - expected).max() / expected.std())


def log_softmax(logits: Rows) -> npt.NDArray[np.float64]:
    """Natural logarithms of the probabilities."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def kl_divergences(logits: Rows, expected: Rows) -> npt.NDArray[np.float64]:
    """KL(expected || logits) of each position, in nats."""
    p, q = log_softmax(expected), log_softmax(logits)
    result: npt.NDArray[np.float64] = (np.exp(p) * (p - q)).sum(-1)
    return result


def kl_divergence(logits: Rows, expected: Rows) -> float:
    """Its mean over positions."""
    return float(kl_divergences(logits, expected).mean())


def top_1_differences(logits: Rows, expected: Rows) -> int:
    """Positions with another most likely token."""
    return int((logits.argmax(-1) != expected.argmax(-1)).sum())


def assert_same(logits: Rows, expected: Rows) -> None:
    """The bound for files and caches in F32: 1e-3 standard deviations, and every position's top token."""
    error = relative_error(logits, expected)
    assert error < 1e-3, f"the largest error is {error:.2e} standard deviations of the logits"
    assert top_1_differences(logits, expected) == 0
