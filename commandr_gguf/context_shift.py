"""Going on at the end of the context by forgetting what is oldest."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True)
class ContextShift:
    """What is dropped when the context is full: the older half of what stands behind the first `n_keep` tokens.

    The rest is computed anew, so that the model is in the very state of one that never saw what was dropped: it costs
    the evaluation of half a context, and what was said there is forgotten without a trace.
    """

    n_keep: int = 1
    """Leading tokens that are never dropped: of a chat, its preamble."""

    def drop_oldest(self, tokens: array[int]) -> bool:
        """Shorten a list of tokens; returns whether there was something to drop."""
        n_drop = (len(tokens) - self.n_keep) // 2
        if n_drop < 1:
            return False
        del tokens[self.n_keep : self.n_keep + n_drop]
        return True
