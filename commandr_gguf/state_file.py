"""State files made smaller by zstd, and made large again.

The file begins with the header of the raw one, in which only the encoding differs, so that it names the same model and
cache. What stands behind the header is cut into blocks; of each block first the even bytes, then the odd ones are
compressed, all blocks in one zstd frame. Half floats have their exponents in odd bytes: apart from the others they
compress well.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import zstandard

from commandr_gguf.errors import CommandRError, FileError, FormatError

_HEADER_BYTES = 80
_N_TOKENS = slice(48, 56)  # of the header
_ENCODING = slice(64, 68)
_CHECKSUM_BYTES = 8
_ZSTD = (1).to_bytes(4, "little")
_MAGIC = b"CMDRSTAT"
_BLOCK = 1 << 22  # bytes, an even number
_LEVEL = 1  # higher ones gain less than a hundredth


def pack(save: Callable[[str], object], path: str) -> None:
    """Let `save` write a raw state file, and put it at `path` in a smaller form.

    The folder needs room for both for a while; a file that stood at `path` is replaced at the end.

    Raises:
        FileError: it cannot be written.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise FileError(f"{path}: exists and is not a file")
    try:
        with tempfile.TemporaryDirectory(prefix=f"{target.name}.", suffix=".tmp", dir=target.parent) as folder:
            raw, packed = Path(folder) / "raw", Path(folder) / "packed"
            save(str(raw))
            with raw.open("rb") as source, packed.open("wb") as sink:
                _pack(source, sink)
                sink.flush()
                os.fsync(sink.fileno())
            packed.replace(target)
    except OSError as error:
        if isinstance(error, CommandRError):
            raise
        raise FileError(f"{path}: cannot be written: {error.strerror}") from error


@contextmanager
def unpacked(path: str, n_ctx: int, token_bytes: int) -> Iterator[str]:
    """The path of the raw file: `path` itself, or where it is packed, a copy in memory that goes away with the block.

    A damaged file may grow without end: no more is unpacked than the tokens of its header can take, and nothing where
    they are more than n_ctx. Who loads that finds out.

    Args:
        path: of the file.
        n_ctx: the most tokens that there is room for.
        token_bytes: what one takes in the file, at most.

    Raises:
        FormatError: the file is packed, and damaged.
    """
    if not Path(path).is_file():  # who loads it says so
        yield path
        return
    try:
        with Path(path).open("rb") as source:
            header = source.read(_HEADER_BYTES)
            if not header.startswith(_MAGIC) or header[_ENCODING] != _ZSTD:
                yield path
                return
            with _temporary() as (sink, name):
                sink.write(header[: _ENCODING.start] + bytes(4) + header[_ENCODING.stop :])
                n_tokens = int.from_bytes(header[_N_TOKENS], "little", signed=True)
                if 0 < n_tokens <= n_ctx:
                    _unpack(source, sink, n_tokens * token_bytes + _CHECKSUM_BYTES)
                sink.flush()
                try:
                    yield name
                except CommandRError as error:
                    raise type(error)(str(error).replace(name, path)) from None
    except zstandard.ZstdError as error:
        raise FormatError(f"{path}: a damaged state file: {error}") from error
    except OSError as error:
        if isinstance(error, CommandRError):
            raise
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def _temporary() -> Iterator[tuple[IO[bytes], str]]:
    """A file in memory where the system has such, else one in the folder for temporary files; and its path."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("commandr-state"), "wb") as file:
            yield file, f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as named:
            yield named, named.name


def _pack(source: IO[bytes], sink: IO[bytes]) -> None:
    header = source.read(_HEADER_BYTES)
    sink.write(header[: _ENCODING.start] + _ZSTD + header[_ENCODING.stop :])
    with zstandard.ZstdCompressor(_LEVEL).stream_writer(sink, closefd=False) as frame:
        while block := source.read(_BLOCK):
            frame.write(b"".join((block[0::2], block[1::2])))


def _unpack(source: IO[bytes], sink: IO[bytes], most: int) -> None:
    """Ends at the first block behind `most` bytes."""
    with zstandard.ZstdDecompressor().stream_reader(source, closefd=False) as frame:
        written = 0
        while written <= most and (block := _read(frame, _BLOCK)):
            written += len(block)
            data = np.frombuffer(block, np.uint8)
            pairs = np.empty_like(data)
            pairs[0::2], pairs[1::2] = np.split(data, [(len(data) + 1) // 2])
            sink.write(pairs.data)


def _read(frame: zstandard.ZstdDecompressionReader, size: int) -> bytes:
    """As many bytes as are wanted, fewer only at the end."""
    parts = []
    while size > 0 and (part := frame.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
