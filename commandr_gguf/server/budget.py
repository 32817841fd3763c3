"""How many tokens of prompts one step may evaluate, so that replies being written go on."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque

N_STEPS = 9
"""Steps without prompts whose median counts: single ones are held up by what else the machine does."""
N_PROMPT_STEPS = 5
"""The same of steps with prompts, for what a token of them takes."""


class PrefillBudget:
    """Learns what steps cost and lets a step with prompts take a few times what it takes without.

    Where more prompts are read than replies written, prompts get as many times as much: replies would go on quickly and
    one by one, while steps for many of them at once are what makes good use of the machine.

    Args:
        n_most: tokens, when no reply is being written.
        n_least: tokens of a step with prompts, in any case; where measurements are mostly noise, they are all there is.
        slowdown: how many times as long as without prompts a step may take.
        unnoticed: seconds that a step may take in any case: of a small model, whose replies come faster than anybody
            reads, many tokens of prompts at once are worth more than even gaps.
    """

    def __init__(self, n_most: int = 512, *, n_least: int = 4, slowdown: float = 1.9, unnoticed: float = 0.02) -> None:
        self._n_most = n_most
        self._n_least = min(n_least, n_most)
        self._slowdown = slowdown
        self._unnoticed = unnoticed
        self._decode_seconds: defaultdict[int, deque[float]] = defaultdict(lambda: deque(maxlen=N_STEPS))
        """Of steps without prompts, by the number of replies."""
        self._token_seconds: deque[float] = deque(maxlen=N_PROMPT_STEPS)
        self._n_last = 0
        """Tokens of the last step beside replies."""

    def tokens(self, n_writing: int, n_reading: int = 1) -> int:
        """For the next step, beside `n_writing` replies that are being written; 0 to see what it takes without prompts.

        At most twice those of the last such step: what a token costs among few says little about many, since few of
        them are computed while weights are read.

        Args:
            n_writing: replies.
            n_reading: prompts that wait.
        """
        if n_writing == 0:
            return self._n_most
        if n_writing not in self._decode_seconds:
            return 0
        times = max(1.0, n_reading / n_writing)
        n_least = min(int(self._n_least * times), self._n_most)
        if not self._token_seconds:
            return n_least
        alone = self._alone(n_writing)
        seconds = max((self._slowdown - 1) * times * alone, self._unnoticed - alone)
        n = int(seconds / max(statistics.median(self._token_seconds), 1e-9))
        return max(n_least, min(n, 2 * self._n_last, self._n_most))

    def add(self, n_writing: int, n_tokens: int, seconds: float) -> None:
        """Count a step with `n_writing` replies and `n_tokens` of prompts."""
        if n_tokens == 0:
            self._decode_seconds[n_writing].append(seconds)
            return
        rest = seconds
        if n_writing:
            rest -= self._alone(n_writing)
            self._n_last = n_tokens
        self._token_seconds.append(max(rest, 0.0) / n_tokens)

    def _alone(self, n_writing: int) -> float:
        """Seconds that a step with so many replies takes without prompts, 0 where that is not known."""
        measured = self._decode_seconds.get(n_writing)
        return statistics.median(measured) if measured else 0.0
