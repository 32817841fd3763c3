"""How long drafts are to be: from what was accepted, and from what evaluations cost on this machine."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass

import numpy as np

from commandr_gguf.drafting.drafter import Source

ROW_COST = 0.25
"""Cost of one more token in an evaluation, in evaluations of one token, until it was measured."""
DECAY = 0.9
"""Weight of what was accepted before, with each further draft."""
MIN_GAIN = 1.05
"""Drafts must promise this many times the tokens per second of plain decoding."""
FIRST_PAUSE, LAST_PAUSE = 8, 256
"""Tokens that are decoded plainly once drafts do not pay; doubled each time until the last."""
EXPLORE = 8
"""Every so many drafts, a shorter one than is best may be made to see what it costs."""
PROBE = 4
"""Tokens of the draft after a pause."""


class EvaluationCosts:
    """Seconds of an evaluation by its number of tokens, as measured last.

    They do not lie on a line: on a CPU, a second and a third token come almost free, and a fourth may need another
    kernel.
    """

    def __init__(self) -> None:
        self._last: dict[int, deque[float]] = {}
        self._median: dict[int, float] = {}
        self._expected: list[float] = []

    def measured(self, n_rows: int) -> bool:
        """Whether an evaluation of so many tokens was measured."""
        return n_rows in self._median

    def add(self, n_rows: int, seconds: float) -> None:
        """Count an evaluation of n_rows tokens."""
        last = self._last.setdefault(n_rows, deque(maxlen=7))
        last.append(seconds)
        self._median[n_rows] = statistics.median(last)  # the machine may do something else once
        self._expected = []

    def expected(self, n_max: int) -> list[float]:
        """Seconds of evaluations of 1 to at least n_max tokens. One of 1 token must have been measured."""
        if len(self._expected) < n_max:
            known = sorted(self._median)
            rows, seconds = [float(n) for n in known], [self._median[n] for n in known]
            slope = ROW_COST * seconds[0]
            if len(known) > 1:
                slope = min(slope, (seconds[-1] - seconds[0]) / (rows[-1] - rows[0]))
            if known[-1] < n_max:
                rows.append(n_max)
                seconds.append(seconds[-1] + max(0.0, slope) * (n_max - known[-1]))
            self._expected = np.interp(np.arange(1, rows[-1] + 1), rows, seconds).tolist()
        return self._expected


@dataclass
class _Record:
    """What became of one source's drafts."""

    accepted: float
    rejected: float
    draft_seconds: float = 0.0
    """For each drafted token."""
    waiting: int = 0
    pause: int = FIRST_PAUSE

    @property
    def acceptance(self) -> float:
        """The probability that a token is right where those before it were."""
        return self.accepted / (self.accepted + self.rejected)


class DraftLength:
    """Chooses for each draft the length that promises most tokens per second.

    With the probability p that the next drafted token is right, a draft of k tokens gives 1 + p + ... + p^k tokens. A
    source for which no length pays pauses, and is tried again with a short draft after 8 tokens, 16, 32, up to 256.
    """

    def __init__(self) -> None:
        self.costs = EvaluationCosts()
        self._n_drafts = 0
        self._records: dict[Source, _Record] = {}

    def limit(self, source: Source, n_most: int, n_pending: int = 1) -> int:
        """How many tokens a source is to draft now: 0 to n_most. Asking counts a token of a pause.

        Args:
            source: of the draft.
            n_most: for which there is room.
            n_pending: tokens that the evaluation computes in any case.
        """
        if not self.costs.measured(1) or n_most <= 0:
            return 0
        record = self._record(source)
        if record.waiting:
            record.waiting -= 1
            if record.waiting:
                return 0
            record.accepted = record.rejected = 0.5  # what it was like before the pause is long ago
            return min(PROBE, n_most)
        n = self._best(record, n_most, n_pending)
        if n == 0:
            record.waiting = record.pause
            record.pause = min(2 * record.pause, LAST_PAUSE)
        self._n_drafts += n > 0
        if self._n_drafts % EXPLORE == 0:
            n = next((k for k in range(1, n) if not self.costs.measured(n_pending + k)), n)
        return n

    def add(
        self, source: Source, n_drafted: int, n_accepted: int, n_rows: int, seconds: float, draft_seconds: float = 0.0
    ) -> None:
        """Count an evaluation with a draft.

        Args:
            source: of the draft.
            n_drafted: its length.
            n_accepted: how many of its tokens, from the first, were right.
            n_rows: tokens that were computed.
            seconds: for the evaluation and sampling.
            draft_seconds: for making the draft.
        """
        self.costs.add(n_rows, seconds)
        record = self._record(source)
        record.accepted = DECAY * record.accepted + n_accepted
        record.rejected = DECAY * record.rejected + (n_accepted < n_drafted)
        record.draft_seconds += 0.2 * (draft_seconds / n_drafted - record.draft_seconds)
        if n_accepted == n_drafted:
            record.pause = FIRST_PAUSE

    def _record(self, source: Source) -> _Record:
        if source not in self._records:
            self._records[source] = _Record(2 * source.acceptance, 2 * (1 - source.acceptance))
        return self._records[source]

    def _best(self, record: _Record, n_most: int, n_pending: int) -> int:
        seconds = self.costs.expected(n_pending + n_most)
        best, best_rate = 0, MIN_GAIN / seconds[n_pending - 1]
        tokens = power = 1.0
        for n in range(1, n_most + 1):
            power *= record.acceptance
            tokens += power
            rate = tokens / (seconds[n_pending + n - 1] + n * record.draft_seconds)
            if rate > best_rate:
                best, best_rate = n, rate
        return best
