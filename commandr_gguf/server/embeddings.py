"""Embeddings of texts, computed beside the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt

from commandr_gguf.command_r import CommandR
from commandr_gguf.embedding import Pooling, embed_steps
from commandr_gguf.errors import ContextFullError
from commandr_gguf.server.state import State

_PART = 256
"""Tokens from one step of the engine to the next."""


async def embed(state: State, texts: Sequence[Sequence[int]], pooling: Pooling = "mean") -> npt.NDArray[np.float32]:
    """Embeddings of tokenized texts, [n_texts, n_embd], each of length 1.

    Raises:
        ArgumentError: a text has no tokens.
        ContextFullError: a text is longer than the context.
        StoppingError: the server is stopping.
    """
    for number, tokens in enumerate(texts):
        if len(tokens) > state.model.n_ctx:
            raise ContextFullError(f"text {number} has {len(tokens)} tokens, and the context {state.model.n_ctx}")
    return await asyncio.wrap_future(state.engine.work(_work(state.model, texts, pooling)))


def _work(
    model: CommandR, texts: Sequence[Sequence[int]], pooling: Pooling
) -> Generator[None, None, npt.NDArray[np.float32]]:
    rows = np.empty((len(texts), model.model.hparams.n_embd), dtype=np.float32)
    for number, tokens in enumerate(texts):
        while tokens and not model.cache.make_room(len(tokens)):
            yield  # until a request has ended
        if not tokens:
            rows[number] = yield from embed_steps(model.session, tokens, pooling, n_batch=_PART)
            continue
        with model.cache.lend(tokens) as lease:
            rows[number] = yield from embed_steps(model.session, tokens, pooling, n_batch=_PART, seq_id=lease.seq_id)
        yield
    return rows
