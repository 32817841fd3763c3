"""A text as chunks of tokens, of which the second halves are scored, as llama.cpp's perplexity tool does it.

The text is tokenized as a whole and cut into chunks of n_ctx tokens; what is left at the end is not used. Each chunk is
evaluated by itself, with its first token replaced by the begin token where the model's texts begin with one. The tokens
after position n_ctx // 2 are scored: every one of them has at least half a chunk before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.tokenizer import Tokenizer

DEFAULT_N_CTX = 512
MIN_N_CTX = 8
"""The least chunk: three of its tokens are scored, so that there always is a standard error."""


@dataclass(frozen=True)
class Chunks:
    """The chunks of a text."""

    tokens: npt.NDArray[np.int32]
    """[n_chunks, n_ctx], as they stand in the text."""
    bos_id: int | None
    """Replaces the first token of each chunk; None replaces nothing."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        """Tokens of a chunk."""
        return int(self.tokens.shape[1])

    @property
    def first(self) -> int:
        """The first position whose logits are scored, against the token after it."""
        return self.n_ctx // 2

    @property
    def n_scored(self) -> int:
        """Scored tokens of a chunk."""
        return n_scored(self.n_ctx)

    def evaluated(self, i: int) -> list[int]:
        """The tokens of chunk `i` that the model is given; its last one is only scored."""
        tokens: list[int] = self.tokens[i, :-1].tolist()
        return tokens if self.bos_id is None else [self.bos_id, *tokens[1:]]

    def targets(self, i: int) -> npt.NDArray[np.int32]:
        """[n_scored] tokens that follow the scored positions of chunk `i`."""
        return self.tokens[i, self.first + 1 :]

    def limit(self, n_chunks: int | None) -> Chunks:
        """The first `n_chunks` chunks, or all of them where there are fewer or with None."""
        if n_chunks is None:
            return self
        return Chunks(self.tokens[: integer("the number of chunks", n_chunks, 1)], self.bos_id)


def n_scored(n_ctx: int) -> int:
    """Scored tokens of a chunk of n_ctx tokens."""
    return n_ctx - 1 - n_ctx // 2


def cut_text(text: str, tokenizer: Tokenizer, n_ctx: int = DEFAULT_N_CTX) -> Chunks:
    """The chunks of a text, control tokens in it taken as plain text. One newline at its end does not count.

    Raises:
        ArgumentError: n_ctx is too small, or the text has fewer tokens than one chunk.
    """
    n_ctx = integer("n_ctx", n_ctx, MIN_N_CTX)
    ids = tokenizer.encode(text.removesuffix("\n"), add_special=True)
    n_chunks = len(ids) // n_ctx
    if n_chunks == 0:
        raise ArgumentError(f"the text has {len(ids)} tokens, fewer than a chunk of {n_ctx}")
    return Chunks(np.array(ids[: n_chunks * n_ctx], np.int32).reshape(n_chunks, n_ctx), chunk_bos(tokenizer))


def chunk_bos(tokenizer: Tokenizer) -> int | None:
    """The token that each chunk begins with; None when the model's texts begin with none."""
    return tokenizer.bos_id if tokenizer.add_bos else None
