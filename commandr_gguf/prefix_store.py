"""A folder of state files, each the keys and values of one prefix of tokens.

The folder's listing is the index: a file's name says how many tokens it holds, their hash, and which model and cache
types it belongs to. So there is no second file that could disagree, and processes that share the folder need no lock:
files appear by renaming, whole or not at all, and one that another process has just removed is one that is not there.
"""

from __future__ import annotations

import array
import hashlib
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from commandr_gguf.errors import (
    ArgumentError,
    CommandRError,
    FileError,
    FormatError,
    OutOfMemoryError,
    UnsupportedError,
    integer,
)

logger = logging.getLogger("commandr_gguf.prefix_store")

_NAME = re.compile(r"(\d{1,10})-([0-9a-f]{32})-([0-9a-f]{16})\.state")
_HEADER_BYTES = 64
_IDENTITY_BYTES = 48  # of the header: magic, version, cache types, the model's fingerprint and shape
_ABANDONED_SECONDS = 3600.0  # a save that has written nothing for so long has died

_temporary_numbers = itertools.count()


@dataclass(frozen=True)
class StoredPrefix:
    """A file of the folder."""

    path: Path
    n_tokens: int
    identity: str
    """Stands for the model and the cache types."""


class PrefixStore:
    """State files by their tokens, the least recently used ones removed when they become too many.

    Which files are of this session's model and cache types is learned from the first one that it saves or loads: only
    the native library can tell.

    Args:
        directory: made when it is not there, for this user alone.
        max_bytes: of all files together.

    Raises:
        FileError: the folder cannot be made or written to.
    """

    def __init__(self, directory: str | os.PathLike[str], max_bytes: int) -> None:
        self.directory = _folder(directory)
        self.max_bytes = integer("max_bytes", max_bytes, 0)
        self._identity: str | None = None
        self._refused: set[Path] = set()
        self._remove_abandoned()

    def find(self, tokens: Sequence[int]) -> list[StoredPrefix]:
        """The files that hold a prefix of `tokens`, the longest first; some may turn out to be another model's."""
        by_length: dict[int, list[tuple[str, StoredPrefix]]] = {}
        for path in self._files():
            match = _NAME.fullmatch(path.name)
            if match is None or path in self._refused or self._identity not in (None, match[3]):
                continue
            n_tokens = int(match[1])
            if 0 < n_tokens <= len(tokens):
                by_length.setdefault(n_tokens, []).append((match[2], StoredPrefix(path, n_tokens, match[3])))
        found = []
        for n_tokens, digest in _digests(tokens, sorted(by_length)):
            found += [stored for name, stored in by_length[n_tokens] if name == digest]
        return found[::-1]

    def covered(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens are in one file that is known to be of this model and cache."""
        stored = self.find(tokens) if self._identity else []
        return stored[0].n_tokens if stored else 0

    def accept(self, stored: StoredPrefix) -> None:
        """A file was loaded: it is of this model, and it is in use."""
        self._identity = stored.identity
        self._touch(stored.path)

    def refuse(self, stored: StoredPrefix, error: CommandRError) -> None:
        """A file could not be loaded: it is removed when it is damaged, and else left to those who can use it."""
        wrong = isinstance(error, (FormatError, UnsupportedError))
        if wrong:  # else there was no memory for it, or another process has removed it
            self._refused.add(stored.path)
        if wrong and (stored.identity == self._identity or _identity_of(stored.path) != stored.identity):
            logger.warning("removed a damaged file of the prompt cache: %s", error)
            self._remove(stored.path)
        else:
            logger.info("passed over a file of the prompt cache: %s", error)

    def save(self, tokens: Sequence[int], write: Callable[[Path], object]) -> bool:
        """Let `write` make the file of these tokens at the path it is given, and remove older files that are too many.

        Returns False, after a line in the log, when the file cannot be written or is too large on its own.
        """
        [(n_tokens, digest)] = _digests(tokens, [len(tokens)])
        temporary = self.directory / f"{n_tokens}-{digest}.{os.getpid()}.{next(_temporary_numbers)}.new"
        try:
            write(temporary)
            identity = _identity_of(temporary)
            if temporary.stat().st_size > self.max_bytes:
                logger.info("%d tokens take more than the %d bytes of the prompt cache", n_tokens, self.max_bytes)
                return False
            path = self.directory / f"{n_tokens}-{digest}-{identity}.state"
            temporary.replace(path)
        except (OSError, OutOfMemoryError) as error:  # FileError is an OSError, too
            logger.warning("the prompt cache cannot be written: %s", error)
            return False
        finally:
            self._remove(temporary)
        self._identity = identity
        self._refused.discard(path)
        self._shrink(path)
        return True

    def _shrink(self, keep: Path) -> None:
        """Remove the least recently used files until the rest is small enough."""
        self._remove_abandoned()
        files = [(path, _stat(path)) for path in self._files() if _NAME.fullmatch(path.name)]
        sizes = [(facts.st_mtime, facts.st_size, path) for path, facts in files if facts]
        total = sum(size for _, size, _ in sizes)
        for _, size, path in sorted(sizes):
            if total <= self.max_bytes:
                break
            if path != keep:
                self._remove(path)
                total -= size

    def _remove_abandoned(self) -> None:
        """Remove what processes that died while saving have left."""
        for path in self._files():
            if path.suffix in (".new", ".tmp") and ".new" in path.suffixes:
                facts = _stat(path)
                if facts and time.time() - facts.st_mtime > _ABANDONED_SECONDS:
                    self._remove(path)

    def _files(self) -> list[Path]:
        try:
            return list(self.directory.iterdir())
        except OSError as error:
            logger.warning("the prompt cache cannot be read: %s", error)
            return []

    @staticmethod
    def _touch(path: Path) -> None:
        try:
            os.utime(path)
        except OSError as error:
            logger.debug("%s: its time of use cannot be set: %s", path, error)

    @staticmethod
    def _remove(path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s: cannot be removed: %s", path, error)


def _folder(directory: str | os.PathLike[str]) -> Path:
    try:
        path = Path(directory)
    except TypeError:
        raise ArgumentError(f"the folder of the prompt cache must be a path, not {directory!r}") from None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{path}: the folder of the prompt cache cannot be made: {error.strerror}") from None
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise FileError(f"{path}: the folder of the prompt cache cannot be written to")
    return path.resolve()


def _digests(tokens: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, str]]:
    """The hash of the first n tokens for each n of `lengths`, which rise."""
    data = memoryview(array.array("i", tokens)).cast("B")
    width = len(data) // max(len(tokens), 1)
    hasher = hashlib.blake2b(digest_size=16)
    result, start = [], 0
    for n in lengths:
        hasher.update(data[start * width : n * width])
        start = n
        result.append((n, hasher.hexdigest()))
    return result


def _identity_of(path: Path) -> str:
    """What the header of a state file says of its model and cache types, "" when it has none."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return ""
    if len(header) < _HEADER_BYTES:
        return ""
    return hashlib.blake2b(header[:_IDENTITY_BYTES], digest_size=8).hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None  # another process has removed it
