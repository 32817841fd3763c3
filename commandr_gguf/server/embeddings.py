"""Embeddings of texts, computed beside the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence

import numpy as np
import numpy.typing as npt

from commandr_gguf.command_r import CommandR
from commandr_gguf.embedding import Pooling, embed_steps
from commandr_gguf.errors import ContextFullError, OutOfMemoryError
from commandr_gguf.server.errors import ClientGoneError
from commandr_gguf.server.state import State, run_parts
from commandr_gguf.server.stream import Receive, watching

_PART = 256
"""Tokens from one step of the engine to the next."""


async def tokens_of(state: State, texts: Sequence[str], receive: Receive) -> list[list[int]]:
    """The tokens of texts, each with its begin token. Raises ClientGoneError: the client went away, see `receive`."""
    rows = [state.model.tokenize("", add_special=True) for _ in texts]
    numbered = (
        (row, part) for row, text in zip(rows, texts, strict=True) for part in state.model.tokenizer.encode_parts(text)
    )
    for row, part in await run_parts(numbered, receive):
        row.extend(part)
    return rows


async def embed(
    state: State, texts: Sequence[Sequence[int]], receive: Receive, pooling: Pooling = "mean"
) -> npt.NDArray[np.float32]:
    """Embeddings of tokenized texts, [n_texts, n_embd], each of length 1.

    Args:
        state: of the server.
        texts: their tokens.
        receive: of the request: when it says that the client has gone, nothing more is computed.
        pooling: see `embed_steps`.

    Raises:
        ClientGoneError: the client went away.
        ArgumentError: a text has no tokens.
        ContextFullError: a text is longer than the context.
        StoppingError: the server is stopping.
    """
    for number, tokens in enumerate(texts):
        if len(tokens) > state.model.n_ctx:
            raise ContextFullError(f"text {number} has {len(tokens)} tokens, and the context {state.model.n_ctx}")
    future = state.engine.work(_work(state.model, texts, pooling))
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        future.cancel()

    async with watching(receive, leave):
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            if not gone:
                raise
            raise ClientGoneError("the client went away") from None


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
            while True:
                steps = embed_steps(model.session, tokens, pooling, n_batch=_PART, seq_id=lease.seq_id)
                try:
                    rows[number] = yield from steps
                    break
                except OutOfMemoryError:  # the cache cannot grow
                    if not model.cache.give_way():
                        raise
        yield
    return rows
