"""Embeddings of texts from the final hidden states."""

from __future__ import annotations

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
    if not tokens:
        raise ArgumentError("an empty text has no embedding")
    total = np.zeros(session.model.hparams.n_embd, dtype=np.float64)
    if pooling == "last":
        session.eval(tokens, logits=False, hidden=True, progress=progress)
        total += session.hidden()[0]
    else:
        for start in range(0, len(tokens), n_batch):
            end = min(start + n_batch, len(tokens))
            session.eval(tokens[:end], n_outputs=end - start, logits=False, hidden=True, progress=progress)
            total += session.hidden().sum(axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(total))
    return (total / norm if norm > 0 else total).astype(np.float32)
