"""Perplexity of a model on a text, and its divergence from a base, with standard errors.

Errors are those of means over scored tokens, taken as independent: the deviation divided by sqrt(n), and what follows
from it to first order for functions of a mean. llama.cpp's perplexity tool states the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from commandr_gguf.quality.base_file import BaseReader, BaseWriter
from commandr_gguf.quality.chunks import Chunks
from commandr_gguf.quality.evaluate import scored_logits
from commandr_gguf.quality.kl import Divergence, divergence
from commandr_gguf.quality.log_probs import Doubles, log_sum_exp, target_nll
from commandr_gguf.session import Session

_LARGEST = math.log(sys.float_info.max)


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error."""

    value: float
    error: float

    @classmethod
    def mean(cls, values: Doubles) -> Estimate:
        """The mean of two values or more."""
        return cls(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))

    def exp(self) -> Estimate:
        """Of the exponential."""
        value = _exp(self.value)
        return Estimate(value, value * self.error)


@dataclass(frozen=True)
class Scores:
    """What was measured on a text."""

    nll: Doubles
    """[n_tokens] -log p of each scored token, in nats."""
    divergence: Divergence | None
    """From the base, when there was one."""

    @property
    def perplexity(self) -> Estimate:
        """The exponential of the mean nll."""
        return Estimate.mean(self.nll).exp()

    @property
    def small_kl(self) -> float:
        """The mean of `Divergence.excess`; NaN without a base."""
        return math.nan if self.divergence is None else float(self.divergence.excess.mean())

    def summary(self) -> dict[str, Any]:
        """All figures by name, for JSON: KL in nats per token, agreement of the most likely token as a fraction."""
        figures = {"n_tokens": len(self.nll)} | _named("nll", Estimate.mean(self.nll))
        figures |= _named("perplexity", self.perplexity)
        if self.divergence is None:
            return figures
        kl, n = self.divergence.kl, len(self.nll)
        share = float(self.divergence.same_top.mean())
        figures |= _named("base_perplexity", Estimate.mean(self.divergence.base_nll).exp())
        # The two models' nll of a token go together: the error is that of their difference.
        figures |= _named("perplexity_ratio", Estimate.mean(self.nll - self.divergence.base_nll).exp())
        figures |= _named("kl_mean", Estimate.mean(kl))
        median, high, higher = np.percentile(kl, (50, 99, 99.9)).tolist()
        figures |= {"kl_median": median, "kl_99": high, "kl_99_9": higher, "kl_max": float(kl.max())}
        return figures | _named("same_top", Estimate(share, math.sqrt(share * (1 - share) / (n - 1))))


def _exp(x: float) -> float:
    """Infinite where a float64 does not hold it."""
    return math.exp(x) if x < _LARGEST else math.inf


def _named(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_error": estimate.error}


Progress = Callable[[int, float], object]
"""Called with the chunks done and the perplexity so far."""


def score(
    session: Session,
    chunks: Chunks,
    *,
    base: BaseReader | None = None,
    save: BaseWriter | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Evaluate all chunks; memory is that of one group of rows, see `evaluate`.

    Args:
        session: from `evaluate.open_session`.
        chunks: of the text.
        base: compare with the first chunks of this base; its `check` has passed.
        save: write each row there.
        progress: called after each chunk.

    Raises:
        BackendError: see `scored_logits`.
        FileError: the base cannot be read or written.
        FormatError: the base was cut short.
    """
    nll = np.empty(len(chunks) * chunks.n_scored)
    parts = []
    done = 0
    for i in range(len(chunks)):
        targets = chunks.targets(i)
        for rows, logits in scored_logits(session, chunks, i):
            log_sums = log_sum_exp(logits)
            nll[done : done + len(logits)] = target_nll(logits, log_sums, targets[rows])
            done += len(logits)
            if save is not None:
                save.write(logits, log_sums)
            if base is not None:
                parts.append(divergence(base.read(i, rows), logits, log_sums, targets[rows]))
        if progress is not None:
            progress(i + 1, _exp(float(nll[:done].mean())))
    return Scores(nll, Divergence.join(parts) if base is not None else None)
