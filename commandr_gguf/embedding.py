"""Embeddings of texts from the final hidden states."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import ArgumentError
from commandr_gguf.session import Progress, Session
from commandr_gguf.tokenizer import Tokenizer

Pooling = Literal["mean", "last"]
"""The mean over all tokens, or the last token's state."""


def embed_text(
    session: Session, tokenizer: Tokenizer, text: str, pooling: Pooling, *, n_batch: int, progress: Progress
) -> npt.NDArray[np.float32]:
    """The embedding of one plain text, which gets the begin token: [n_embd], of length 1.

    At most `n_batch` tokens are evaluated at a time. Raises ArgumentError when the text has no tokens.
    """
    tokens = tokenizer.encode(text, add_special=True)
    work = embed_steps(session, tokens, pooling, n_batch=n_batch, progress=progress)
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: npt.NDArray[np.float32] = stop.value
            return result


def embed_steps(
    session: Session,
    tokens: Sequence[int],
    pooling: Pooling,
    *,
    n_batch: int,
    seq_id: int = 0,
    progress: Progress | None = None,
) -> Generator[None, None, npt.NDArray[np.float32]]:
    """The embedding of tokens, [n_embd], of length 1; it yields where others may compute.

    Args:
        session: computes, in the sequence `seq_id`.
        tokens: of one text.
        pooling: what becomes of the states of all tokens.
        n_batch: most tokens from one pause to the next.
        seq_id: the sequence.
        progress: see `Session.eval`.

    Raises:
        ArgumentError: there are no tokens.
    """
    if not tokens:
        raise ArgumentError("an empty text has no embedding")
    total = np.zeros(session.model.hparams.n_embd, dtype=np.float64)
    for start in range(0, len(tokens), n_batch):
        if start:
            yield
        end = min(start + n_batch, len(tokens))
        n_outputs = end - start if pooling == "mean" else int(end == len(tokens))
        session.eval(
            tokens[:end], seq_id=seq_id, n_outputs=n_outputs, logits=False, hidden=n_outputs > 0, progress=progress
        )
        if n_outputs:
            total += session.hidden().sum(axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(total))
    return (total / norm if norm > 0 else total).astype(np.float32)
