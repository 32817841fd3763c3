"""How long drafts are to be: from what was accepted, and from what a longer evaluation costs."""

from __future__ import annotations

from dataclasses import dataclass

from commandr_gguf.drafting.drafter import Source

ROW_COST = {"gpu": 0.08, "packed": 0.15, "cpu": 0.5}
"""Cost of one more token in an evaluation, in evaluations of one token, by what computes (`Model.computed_by`).
A token alone waits for memory; what is computed beside it costs arithmetic only. Measured on two cores: 0.1 to 0.25 for
packed weights, 0.6 for ggml's. Not measured on GPUs."""
DECAY = 0.9
"""Weight of what was accepted before, with each further draft."""
MIN_GAIN = 1.05
"""Drafts must promise this many times the tokens per second of plain decoding."""
FIRST_PAUSE, LAST_PAUSE = 8, 256
"""Tokens that are decoded plainly once drafts do not pay; doubled each time until the last."""
PROBE = 4
"""Tokens of the draft after a pause."""


@dataclass
class _Record:
    """What became of one source's drafts."""

    accepted: float
    rejected: float
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

    Costs are stated, not measured: lengths that depended on the clock would, through the rounding of evaluations of
    different lengths, let the same seed give another reply on a second run.

    Args:
        row_cost: of one more token in an evaluation, in evaluations of one token.
    """

    def __init__(self, row_cost: float = ROW_COST["packed"]) -> None:
        self._row_cost = row_cost
        self._records: dict[Source, _Record] = {}

    def limit(self, source: Source, n_most: int, n_pending: int = 1) -> int:
        """How many tokens a source is to draft now: 0 to n_most. Asking counts a token of a pause.

        Args:
            source: of the draft.
            n_most: for which there is room.
            n_pending: tokens that the evaluation computes in any case.
        """
        if n_most <= 0:
            return 0
        record = self._record(source)
        if record.waiting:
            record.waiting -= 1
            if record.waiting:
                return 0
            record.accepted = record.rejected = 0.5  # what it was like before the pause is long ago
            return min(PROBE, n_most)
        n = self._best(source, record.acceptance, n_most, n_pending)
        if n == 0:
            record.waiting = record.pause
            record.pause = min(2 * record.pause, LAST_PAUSE)
        return n

    def add(self, source: Source, n_drafted: int, n_accepted: int) -> None:
        """Count a draft of n_drafted tokens, of which the first n_accepted were right."""
        record = self._record(source)
        record.accepted = DECAY * record.accepted + n_accepted
        record.rejected = DECAY * record.rejected + (n_accepted < n_drafted)
        if n_accepted == n_drafted and self._best(source, record.acceptance, n_drafted, 1):
            record.pause = FIRST_PAUSE

    def _record(self, source: Source) -> _Record:
        if source not in self._records:
            self._records[source] = _Record(2 * source.acceptance, 2 * (1 - source.acceptance))
        return self._records[source]

    def _best(self, source: Source, acceptance: float, n_most: int, n_pending: int) -> int:
        plain = 1 + self._row_cost * (n_pending - 1)
        best, best_rate = 0, MIN_GAIN / plain
        tokens = power = 1.0
        for n in range(1, n_most + 1):
            power *= acceptance
            tokens += power
            rate = tokens / (plain + n * (self._row_cost + source.cost))
            if rate > best_rate:
                best, best_rate = n, rate
        return best
