"""Log-probabilities of rows of logits, in float64, and their 16-bit form in files.

Arrays of float64 are made for blocks of rows that fit in a cache, never for all rows: a row may have 256,000 columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint16]

_BLOCK = 1 << 18
_N_LEVELS = np.float32(65535)
_DEPTH = np.float32(16)


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices that cover all rows, each of about 2 MiB in float64."""
    step = max(1, _BLOCK // n_columns)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def log_sum_exp(logits: Floats) -> Doubles:
    """The logarithm of the sum of exp(logits) of each row, [n_rows]."""
    out = np.empty(len(logits))
    for rows in row_blocks(*logits.shape):
        block = logits[rows].astype(np.float64)
        top = block.max(axis=1)
        block -= top[:, None]
        out[rows] = top + np.log(np.exp(block, out=block).sum(axis=1))
    return out


def target_nll(logits: Floats, log_sums: Doubles, targets: npt.NDArray[np.int32]) -> Doubles:
    """-log p of one token per row, [n_rows], in nats; log_sums come from `log_sum_exp`."""
    nll: Doubles = log_sums - logits[np.arange(len(logits)), targets]
    return nll


def encoded_width(n_vocab: int) -> int:
    """16-bit words of an encoded row: four for its two floats, then the vocabulary, made even."""
    return 4 + n_vocab + n_vocab % 2


def encode_rows(logits: Floats, log_sums: Doubles) -> Codes:
    """Rows as llama.cpp's perplexity tool stores them, [n_rows, encoded_width].

    A row begins with two float32, scale and least; the log-probability of code c is scale * c + least. Codes span the
    16 nats below the row's highest logit; what is lower has code 0. Arithmetic is in float32, as there.
    """
    n_rows, n_vocab = logits.shape
    out = np.zeros((n_rows, encoded_width(n_vocab)), np.uint16)
    top = logits.max(axis=1)
    low = np.maximum(logits.min(axis=1), top - _DEPTH)
    scale = (top - low) / _N_LEVELS
    params = out[:, :4].view(np.float32)
    params[:, 0] = scale
    params[:, 1] = low - top - (log_sums - top).astype(np.float32)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    for rows in row_blocks(n_rows, n_vocab):
        steps = np.maximum(logits[rows] - low[rows, None], 0) * inverse[rows, None]
        out[rows, 4 : 4 + n_vocab] = np.rint(steps, out=steps)
    return out


def decode_rows(codes: Codes, n_vocab: int) -> Doubles:
    """Log-probabilities [n_rows, n_vocab] of encoded rows."""
    params = np.ascontiguousarray(codes[:, :4]).view(np.float32).astype(np.float64)
    out = codes[:, 4 : 4 + n_vocab].astype(np.float64)
    out *= params[:, :1]
    out += params[:, 1:]
    return out
