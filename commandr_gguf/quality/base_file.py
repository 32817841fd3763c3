"""Log-probabilities of a base model on a text, in the file format of llama.cpp's --kl-divergence-base.

All little-endian:

    8 bytes   "_logits_"
    int32     n_ctx, n_vocab, n_chunks
    int32     tokens [n_chunks, n_ctx], as they stand in the text
    uint16    rows [n_chunks, n_scored, encoded_width], see `log_probs.encode_rows`
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from commandr_gguf.errors import ArgumentError, FileError, FormatError
from commandr_gguf.quality.chunks import MIN_N_CTX, Chunks, n_scored
from commandr_gguf.quality.log_probs import Codes, Doubles, Floats, encode_rows, encoded_width

_MAGIC = b"_logits_"
_HEADER_BYTES = len(_MAGIC) + 12


def base_bytes(n_chunks: int, n_ctx: int, n_vocab: int) -> int:
    """Size of a file."""
    return _HEADER_BYTES + 4 * n_chunks * n_ctx + 2 * n_chunks * n_scored(n_ctx) * encoded_width(n_vocab)


class BaseWriter:
    """Writes the rows of a base in the order of the text, see `write_base`.

    Without a buffer of its own: closing the file has then nothing left to write that could fail.
    """

    def __init__(self, file: io.FileIO, path: Path) -> None:
        self._file = file
        self._path = path

    def write(self, logits: Floats, log_sums: Doubles) -> None:
        """Add rows of logits [n_rows, n_vocab], with their `log_sum_exp`."""
        self.put(encode_rows(logits, log_sums).astype("<u2", copy=False))

    def put(self, values: npt.NDArray[np.generic]) -> None:
        """Add little-endian values."""
        left = memoryview(values.tobytes())
        try:
            while left:  # a disk that fills up takes a part before it refuses
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _unwritable(self._path, error) from error


@contextmanager
def write_base(path: Path, chunks: Chunks, n_vocab: int) -> Iterator[BaseWriter]:
    """A writer for a whole file or none: it lies beside `path` until the block ends without an exception.

    Raises:
        FileError: the file cannot be written, or has no room on its disk, which is known before anything is computed.
    """
    path = Path(os.path.realpath(path))  # a symbolic link stays, and what it points to is replaced
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    _check_room(path, base_bytes(len(chunks), chunks.n_ctx, n_vocab))
    try:
        file = temporary.open("wb", buffering=0)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with file:
            writer = BaseWriter(file, path)
            writer.put(np.frombuffer(_MAGIC, np.uint8))
            writer.put(np.array([chunks.n_ctx, n_vocab, len(chunks)], "<i4"))
            writer.put(chunks.tokens.astype("<i4"))
            yield writer
        try:
            temporary.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_room(path: Path, needed: int) -> None:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise _unwritable(path, error) from error
    if free < needed:
        raise FileError(f"{path}: the base needs {needed} bytes, and its disk has {free} free")


def _unwritable(path: Path, error: OSError) -> FileError:
    return FileError(f"{path}: the base cannot be written: {error.strerror or error}")


class BaseReader:
    """A base, read row by row. Close it, or use it in a `with` statement.

    Raises:
        FileError: the file cannot be read.
        FormatError: it is no such file, it is cut short, or its header makes no sense.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self._file = Path(path).open("rb")  # noqa: SIM115  # close() ends it
        except OSError as error:
            raise FileError(f"{self.path}: the base cannot be read: {error.strerror}") from error
        try:
            self._read_header()
        except OSError as error:
            self.close()
            raise FileError(f"{self.path}: the base cannot be read: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _read_header(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        header = self._file.read(_HEADER_BYTES)
        if header[: len(_MAGIC)] != _MAGIC:
            raise FormatError(f"{self.path}: this is no file of log-probabilities: it does not begin with _logits_")
        if len(header) < _HEADER_BYTES:
            raise FormatError(f"{self.path}: the base is cut short: it ends within its header")
        self.n_ctx, self.n_vocab, n_chunks = np.frombuffer(header[len(_MAGIC) :], "<i4").tolist()
        if self.n_ctx < MIN_N_CTX or self.n_vocab < 1 or n_chunks < 1:
            raise FormatError(
                f"{self.path}: the base states {n_chunks} chunks of {self.n_ctx} tokens and a vocabulary of "
                f"{self.n_vocab}; there must be one chunk of {MIN_N_CTX} tokens or more"
            )
        expected = base_bytes(n_chunks, self.n_ctx, self.n_vocab)
        if size != expected:
            fault = "cut short" if size < expected else "too long"
            raise FormatError(f"{self.path}: the base is {fault}: it has {size} bytes, its header asks for {expected}")
        tokens = np.frombuffer(self._file.read(4 * n_chunks * self.n_ctx), "<i4").astype(np.int32)
        if tokens.min() < 0 or tokens.max() >= self.n_vocab:
            raise FormatError(f"{self.path}: the base has tokens outside its vocabulary of {self.n_vocab}")
        self.tokens: npt.NDArray[np.int32] = tokens.reshape(n_chunks, self.n_ctx)
        """[n_chunks, n_ctx]"""

    def read(self, chunk: int, rows: slice) -> Codes:
        """Encoded rows [n_rows, encoded_width] of the scored tokens `rows` of a chunk."""
        width = encoded_width(self.n_vocab)
        first = chunk * n_scored(self.n_ctx) + rows.start
        codes = np.empty((rows.stop - rows.start, width), "<u2")
        try:
            self._file.seek(_HEADER_BYTES + self.tokens.nbytes + 2 * first * width)
            n_read = self._file.readinto(codes.data)
        except OSError as error:
            raise FileError(f"{self.path}: the base cannot be read: {error.strerror}") from error
        if n_read < codes.nbytes:
            raise FormatError(f"{self.path}: the base was cut short while it was read")
        return codes.astype(np.uint16, copy=False)

    def check(self, n_vocab: int, n_ctx: int, text: Chunks | None) -> None:
        """Refuse what cannot be compared with this base, as far as it is known.

        Args:
            n_vocab: of the model to compare.
            n_ctx: tokens of a chunk that the caller means.
            text: chunks that the caller means; None means those of the base.

        Raises:
            ArgumentError: the vocabulary, the context or the text is another one.
        """
        if self.n_vocab != n_vocab:
            raise ArgumentError(
                f"{self.path}: the base has a vocabulary of {self.n_vocab} tokens, the model one of {n_vocab}"
            )
        if self.n_ctx != n_ctx:
            raise ArgumentError(f"{self.path}: the base was made with a context of {self.n_ctx} tokens, not {n_ctx}")
        if text is not None and not np.array_equal(text.tokens[: len(self.tokens)], self.tokens):
            raise ArgumentError(f"{self.path}: the base was made of another text than the one given")

    def close(self) -> None:
        """Close the file. Calling it again does nothing."""
        self._file.close()

    def __enter__(self) -> BaseReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
