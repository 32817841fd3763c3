"""What a session is asked to evaluate, and what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from commandr_gguf.sampling import Logprobs, Sampler
from commandr_gguf.token_buffer import Tokens
from commandr_gguf.token_constraint import TokenConstraint


@dataclass(frozen=True)
class EvalItem:
    """What one sequence shall hold, and how many outputs are wanted."""

    tokens: Tokens
    """All tokens of the sequence, at least one; the position of tokens[i] is i."""
    seq_id: int = 0
    n_outputs: int = 1
    """Outputs for the last n_outputs positions, 0 to len(tokens)."""
    mask: npt.NDArray[np.uint32] | None = None
    """Of the tokens whose logits are needed, in the words that `Sampler.sample` takes; None needs all.

    Where they are few, the others are not computed and get -inf; where they are not, masks may make no difference."""


@dataclass(frozen=True)
class NextToken:
    """What `Session.next_token` and `Session.next_tokens` return."""

    token: int | None
    """None without a sampler."""
    logprobs: Logprobs | None
    n_reused: int
    """Tokens that the sequence held already."""


@dataclass(frozen=True)
class Want:
    """What one sequence shall hold, and how the tokens behind that are to be chosen; see `Session.next_tokens`."""

    tokens: Tokens
    """All tokens of the sequence, at least one."""
    sampler: Sampler | None
    """None only makes the sequence hold the tokens; there is no draft then."""
    seq_id: int = 0
    draft: Sequence[int] = ()
    """Guesses of what follows `tokens`."""
    constraint: TokenConstraint | None = None
    end_tokens: Collection[int] = ()
    top_logprobs: int | None = None

    def item(self, tokens: Tokens, max_masked: int) -> EvalItem:
        """What is to be evaluated.

        Args:
            tokens: those of the want with its draft behind them.
            max_masked: up to how many allowed tokens a mask saves work; 0 = never.
        """
        if self.sampler is None:
            return EvalItem(tokens, self.seq_id, 0)
        draft = tokens[len(self.tokens) :]
        needed = None  # log-probabilities are those among all tokens
        if self.constraint is not None and self.top_logprobs is None and max_masked > 0:
            needed = self.constraint.lookahead(list(draft), max_masked)
        return EvalItem(tokens, self.seq_id, len(draft) + 1, needed)
