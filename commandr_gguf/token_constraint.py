"""What decides during a generation which tokens may follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class TokenConstraint(Protocol):
    """The state of one generation's constraint: it is told each token and says what may come next."""

    def mask(self) -> npt.NDArray[np.uint32] | None:
        """The tokens allowed now, in the words that `Sampler.sample` takes; None allows all."""

    def accept(self, token: int) -> None:
        """Go on behind a token that the mask allows. Not called for tokens that end a generation."""

    def forced(self) -> list[int]:
        """The tokens that must follow now; empty where there is a choice."""

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, one behind the other, may come now. The state stays as it is."""

    def lookahead(self, tokens: Sequence[int], n_most: int) -> npt.NDArray[np.uint32] | None:
        """The tokens that may come now or behind one of the first of `tokens`, as a mask; the state stays as it is.

        None where more than `n_most` may come at one of these places: then all of the logits are worth computing.
        """

    @property
    def done(self) -> bool:
        """Whether nothing may follow but the end of the generation."""
