"""Which tokens a batch of logits gives when a draft guessed some of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt

from commandr_gguf.sampling import Logprobs
from commandr_gguf.token_constraint import TokenConstraint

Sample = Callable[[int, "npt.NDArray[np.uint32] | None"], "tuple[int, Logprobs | None]"]
"""Picks a token from a row of logits, given the mask; row i is for the token after the i-th of the draft."""


def verify(
    draft: Sequence[int],
    sample: Sample,
    constraint: TokenConstraint | None = None,
    end_tokens: Collection[int] = (),
    *,
    force: bool = True,
) -> list[tuple[int, Logprobs | None]]:
    """Tokens row by row, up to and with the first one that the draft did not guess.

    Each is sampled from its own row with its own mask, given only tokens that were sampled before it: accepting where
    it equals the guess is exact for greedy decoding and for sampling, and uses one random number a token.

    Args:
        draft: the guesses; the logits have one row more.
        sample: picks a token.
        constraint: gives the masks and is told each token.
        end_tokens: nothing comes after one of these.
        force: take the constraint's forced tokens without sampling.
    """
    found: list[tuple[int, Logprobs | None]] = []
    while True:
        first = len(found)
        token, logprobs = sample(first, None if constraint is None else constraint.mask())
        found.append((token, logprobs))
        if token in end_tokens:
            return found
        if constraint is not None:
            constraint.accept(token)
            found += [(forced, None) for forced in (take_forced(constraint, end_tokens) if force else ())]
            if constraint.done or found[-1][0] in end_tokens:
                return found
        taken = [token for token, _ in found[first:]]
        if taken != list(draft[first : first + len(taken)]):
            return found


def take_forced(constraint: TokenConstraint, end_tokens: Collection[int] = ()) -> list[int]:
    """The tokens that must follow now, up to an end token; the constraint is told of them."""
    taken = []
    for token in constraint.forced():
        taken.append(token)
        if token in end_tokens:
            break
        constraint.accept(token)
    return taken


def n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """With how many equal tokens both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
