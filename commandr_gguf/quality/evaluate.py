"""The logits of chunks, in groups of rows: a whole chunk's are 256 MB where the vocabulary has 256,000 tokens.

There, scoring takes half a gigabyte beside the model: a group in the graph, in the session, as a copy and as codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import BackendError
from commandr_gguf.model import Model
from commandr_gguf.quality.chunks import Chunks
from commandr_gguf.session import Session

_GROUP_BYTES = 128 << 20
_LEAST_ROWS = 16


def rows_per_group(n_vocab: int, n_scored: int) -> int:
    """Rows of logits that are computed, copied and scored at a time."""
    return min(n_scored, max(_LEAST_ROWS, _GROUP_BYTES // (4 * n_vocab)))


def open_session(model: Model, chunks: Chunks, **options: Any) -> Session:
    """A session for `scored_logits`; `options` are those of `Session`."""
    rows = rows_per_group(model.hparams.n_vocab, chunks.n_scored)
    return Session(model, n_ctx=chunks.n_ctx, n_batch=rows, n_outputs=rows, **options)


def scored_logits(session: Session, chunks: Chunks, i: int) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Evaluate chunk `i` from empty; gives which of its scored tokens a group holds, and logits [n_rows, n_vocab].

    A group is what the session computes beyond the prefix that it holds already, so nothing is computed twice and no
    more than one group is in memory.

    Raises:
        BackendError: logits are infinite or not a number.
    """
    tokens, first = chunks.evaluated(i), chunks.first
    group = rows_per_group(session.model.hparams.n_vocab, chunks.n_scored)
    session.seq_rm(0)  # what it holds may have been computed before `Model.set_tensor`
    session.eval(tokens[:first], n_outputs=0)
    for start in range(0, chunks.n_scored, group):
        stop = min(start + group, chunks.n_scored)
        session.eval(tokens[: first + stop], n_outputs=stop - start)
        logits = session.logits()
        if not np.isfinite(logits.max()) or not np.isfinite(logits.min()):
            raise BackendError(f"{session.model.path}: logits of chunk {i + 1} are infinite or not a number")
        yield slice(start, stop), logits
