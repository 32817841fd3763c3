"""Texts that models are measured on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from commandr_gguf.cli import options
from commandr_gguf.errors import ArgumentError, FileError, FormatError
from commandr_gguf.quality.chunks import DEFAULT_N_CTX, Chunks, cut_text
from commandr_gguf.tokenizer import Tokenizer

TextPath = Annotated[Path, typer.Argument(metavar="TEXT", help="A text file in UTF-8.", show_default=False)]
_CHUNK = "Tokens of a chunk; the second half of them is scored."
ChunkCtx = Annotated[Any, options.ctx_option(_CHUNK, show_default=True)]
OptionalChunkCtx = Annotated[Any, options.ctx_option(f"{_CHUNK} {DEFAULT_N_CTX} without it.")]
NChunks = Annotated[
    int | None, typer.Option("--chunks", help="Chunks to evaluate; without it all of the text.", show_default=False)
]


@dataclass(frozen=True)
class TextFile:
    """A text and where it came from."""

    path: Path
    text: str

    @property
    def sha256(self) -> str:
        """Of the UTF-8 bytes, in hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def chunks(self, tokenizer: Tokenizer, n_ctx: int = DEFAULT_N_CTX, n_chunks: int | None = None) -> Chunks:
        """See `cut_text`; errors name the file."""
        with self.named():
            return cut_text(self.text, tokenizer, n_ctx).limit(n_chunks)

    @contextmanager
    def named(self) -> Iterator[None]:
        """ArgumentErrors that are raised in the block begin with the file's name."""
        try:
            yield
        except ArgumentError as error:
            raise ArgumentError(f"{self.path}: {error}") from error


def read_text(path: Path) -> TextFile:
    """Raises FileError or FormatError."""
    try:
        # Line ends stay as they are: they are tokens of the text.
        return TextFile(path, path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise FileError(f"{path}: the text cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: the file is no text in UTF-8: {error.reason} at byte {error.start}") from error
