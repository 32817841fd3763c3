"""Collecting an importance matrix: a model reads a text, and what its matrices are multiplied with is summed up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.imatrix import ColumnSums, ImportanceMatrix
from commandr_gguf.model import Model
from commandr_gguf.session import Progress, Session
from commandr_gguf.token_buffer import Tokens, token_ids
from commandr_gguf.tokenizer import Tokenizer

DEFAULT_N_CTX = 512

_HEAD = "token_embd.weight"


def collect_imatrix(
    model: Model,
    text: str | Tokens,
    *,
    n_ctx: int = DEFAULT_N_CTX,
    n_chunks: int | None = None,
    process_output: bool = False,
    n_threads: int = 0,
    dataset: str = "unnamed",
    progress: Progress | None = None,
) -> ImportanceMatrix:
    """Let a model read a text in chunks, each in a sequence of its own, as llama.cpp's imatrix tool does.

    Args:
        model: packed or quantized weights are fine, unrounded ones are best.
        text: or its tokens.
        n_ctx: tokens per chunk; what is left at the end is not read.
        n_chunks: only so many, from the start.
        process_output: include the head under the name token_embd.weight, which is the same matrix.
        n_threads: CPU threads; 0 = the physical cores that this process may use.
        dataset: the text's name in the result.
        progress: called with the tokens that are done and all of them; returning False cancels.

    Raises:
        ArgumentError: the text is shorter than a chunk.
        BackendError: an input is not finite; the matrix is named.
        CancelledError
    """
    rows = chunks(Tokenizer.from_gguf(model.gguf), text, n_ctx)[:n_chunks]
    with ImatrixCollector(model, n_ctx=n_ctx, n_threads=n_threads) as collector:
        for i, row in enumerate(rows):
            collector.add(row, progress and _shifted(progress, i * n_ctx, rows.size))
        return collector.result(process_output=process_output, dataset=dataset)


def _shifted(progress: Progress, n_before: int, n_total: int) -> Progress:
    return lambda n_done, _: progress(n_before + n_done, n_total)


def chunks(
    tokenizer: Tokenizer, text: str | Tokens, n_ctx: int = DEFAULT_N_CTX, *, parse_special: bool = False
) -> npt.NDArray[np.int32]:
    """A text's tokens in rows [n_chunks, n_ctx], all that makes up whole rows.

    The text is tokenized at once, with the begin token before it. Where the model wants one, the first token of each
    row gives way to it.

    Raises:
        ArgumentError: the text is shorter than a chunk.
    """
    integer("n_ctx", n_ctx, 2)
    if isinstance(text, str):
        text = tokenizer.encode(text, add_special=True, parse_special=parse_special)
    ids = np.array(token_ids(text), np.int32)
    n_chunks = len(ids) // n_ctx
    if n_chunks == 0:
        raise ArgumentError(f"the text has {len(ids)} tokens, fewer than a chunk of {n_ctx}")
    rows = ids[: n_chunks * n_ctx].reshape(n_chunks, n_ctx)
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        rows[:, 0] = tokenizer.bos_id
    return rows


class ImatrixCollector:
    """Sums that grow chunk by chunk. Close it, or use it in a `with` statement.

    Args:
        model: what reads.
        n_ctx: most tokens in a chunk.
        n_threads: CPU threads; 0 = the physical cores that this process may use.
    """

    def __init__(self, model: Model, *, n_ctx: int = DEFAULT_N_CTX, n_threads: int = 0) -> None:
        self.n_ctx = n_ctx
        self._shapes = {tensor.name: tensor.shape for tensor in model.gguf.tensors}
        self._session = Session(model, n_ctx=n_ctx, n_threads=n_threads, imatrix=True)
        # One object, so that Ctrl-C cannot fall between the number of chunks and the sums over them.
        self._done = (0, self._sums())

    @property
    def n_chunks(self) -> int:
        """Chunks that the result holds."""
        return self._done[0]

    def add(self, tokens: Tokens, progress: Progress | None = None) -> None:
        """Read one chunk.

        An error or Ctrl-C leaves the result as it was before this chunk, and closes the collector to further ones.
        See `Session.eval` for errors; BackendError names a matrix with an input that is not finite.
        """
        try:
            self._session.seq_rm(0)
            self._session.eval(tokens, n_outputs=0, progress=progress)
            self._done = (self.n_chunks + 1, self._sums())
        except BaseException:
            self.close()  # the session's own sums now hold part of a chunk
            raise

    def result(self, *, process_output: bool = False, dataset: str = "unnamed") -> ImportanceMatrix:
        """The sums over the chunks that were read whole. See `collect_imatrix` for the arguments."""
        entries = {name: sums for name, sums in self._done[1].items() if process_output or name != _HEAD}
        return ImportanceMatrix(entries, (dataset,), self.n_ctx)

    def _sums(self) -> dict[str, ColumnSums]:
        return {
            name: ColumnSums(*self._session.imatrix_sums(name, shape[0]))
            for name, shape in self._shapes.items()
            if (name.startswith("blk.") and not name.endswith("_norm.weight")) or name == _HEAD
        }

    def close(self) -> None:
        """Free the session; the result stays. Calling it again does nothing."""
        self._session.close()

    def __enter__(self) -> ImatrixCollector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
