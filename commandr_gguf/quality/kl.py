"""How far one model's predictions are from another's, token by token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from commandr_gguf.quality.log_probs import Codes, Doubles, Floats, decode_rows, row_blocks

_LEAST_LOG_PROB = -16.0


@dataclass(frozen=True)
class Divergence:
    """A value per scored token, [n_tokens]."""

    kl: Doubles
    """KL(base || model) in nats, as llama.cpp computes it: tokens of which the base's log-probability is -16 or less
    are left out, and the base's probabilities are not made to sum to one again after the rounding to 16 bits."""
    excess: Doubles
    """Sum over the same tokens of b log(b/p) - b + p, which is the same without rounding but for those left out, and is
    never negative: the rounding of the base comes in squared. For divergences too small for `kl`."""
    base_nll: Doubles
    """-log of the base's probability of the token that follows."""
    same_top: npt.NDArray[np.bool_]
    """Whether both have the same most likely token."""

    @classmethod
    def join(cls, parts: list[Divergence]) -> Divergence:
        """Of the tokens of all parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def divergence(codes: Codes, logits: Floats, log_sums: Doubles, targets: npt.NDArray[np.int32]) -> Divergence:
    """Compare encoded rows of the base [n_rows, encoded_width] with a model's logits [n_rows, n_vocab].

    Args:
        codes: of the base, see `log_probs.encode_rows`.
        logits: of the model at the same positions.
        log_sums: of `logits`, [n_rows].
        targets: the tokens that follow, [n_rows].
    """
    n_rows, n_vocab = logits.shape
    kl, excess, base_nll = np.empty(n_rows), np.empty(n_rows), np.empty(n_rows)
    for rows in row_blocks(n_rows, n_vocab):
        log_b = decode_rows(codes[rows], n_vocab)
        base_nll[rows] = -log_b[np.arange(len(log_b)), targets[rows]]
        counted = log_b > _LEAST_LOG_PROB
        log_p = logits[rows] - log_sums[rows, None]
        b = np.exp(log_b) * counted
        log_b -= log_p
        kl[rows] = np.einsum("ij,ij->i", b, log_b)
        p = np.exp(log_p, out=log_p)
        excess[rows] = kl[rows] + (p * counted - b).sum(axis=1)
    same_top = codes[:, 4 : 4 + n_vocab].argmax(axis=1) == logits.argmax(axis=1)
    return Divergence(kl, excess, base_nll, same_top)
