"""Files on their way: written beside their final place and renamed when all of them are whole.

Whatever stops the writing, an error, an interrupt or a full disk, leaves the final paths as they were. What was written
is removed, unless the conversion is to be resumed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from convert.errors import ArgumentError, OutputError
from convert.journal import Journal
from convert.layout import OutputFile
from convert.rename import rename_all


class Writer:
    """Takes blocks of tensors, from any thread, to where ``files`` have them. Use it in a `with` statement.

    ``finished`` are the tensors that need not be written, because an earlier conversion did and ``resume`` is set, with
    the numbers of NaN and infinities in them. ``overwrite`` also allows to throw away what an earlier one left. Raises
    OutputError, which says what happened.
    """

    def __init__(self, files: Sequence[OutputFile], fingerprint: str, *, resume: bool, overwrite: bool) -> None:
        self._resume = resume
        self._overwrite = overwrite
        # A symbolic link stays, and what it points to is replaced.
        self._finals = [Path(os.path.realpath(file.path)) for file in files]
        self._files = list(files)
        self._partials = [path.with_name(f"{path.name}.part") for path in self._finals]
        self._journal = journal_of(files, fingerprint)
        self._places = {name: (i, offset) for i, file in enumerate(files) for name, offset in file.offsets.items()}
        self._handles: list[int] = []
        self._stack = ExitStack()
        self._ours = False  # what lies there unfinished may be removed
        self.finished: dict[str, int] = {}

    def __enter__(self) -> Writer:
        with self._stack:
            try:
                self._begin()
            except BaseException as error:
                if self._ours and not self._resume:
                    self._remove()
                if isinstance(error, OSError):
                    raise self._failed(error) from error
                raise
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None and not self._resume:
                self._remove()

    def write(self, name: str, offset: int, data: npt.NDArray[np.uint8]) -> None:
        """Bytes of the tensor ``name`` from ``offset`` in it on."""
        i, start = self._places[name]
        try:
            _write_all(self._handles[i], data.data.cast("B"), start + offset)
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, finished: Mapping[str, int]) -> None:
        """Note tensors of which all was written, with the numbers of NaN and infinities in them."""
        try:
            self._journal.add(finished, self._handles)
        except OSError as error:
            raise self._failed(error) from error

    def commit(self) -> None:
        """Give the files their final names: all is written."""
        try:
            for handle in self._handles:
                os.fsync(handle)
            self._journal.commit()
            rename_all(list(zip(self._partials, self._finals, strict=True)))
            self._journal.path.unlink(missing_ok=True)
            _sync_folder(self._finals[0].parent)
        except OSError as error:
            raise self._failed(error) from error

    def _begin(self) -> None:
        left_over = self._lock()
        if left_over and not self._resume and not self._overwrite:
            raise ArgumentError(
                f"{left_over[0]} is what an unfinished conversion left: --resume goes on with it, --force starts anew"
            )
        finished = self._journal.finished() if self._resume else {}
        if finished is None and not self._overwrite:
            raise ArgumentError(f"{self._journal.path} is of another checkpoint or other options: --force starts anew")
        self._ours = True
        if self._resume and self._journal.is_committing() and self._is_all_there():
            self.finished = {name: (finished or {}).get(name, 0) for name in self._places}
            for path, file in zip(self._partials, self._files, strict=True):
                if not self._holds(path, file):  # it has its name already, and opening it to lock it has made a new one
                    path.unlink(missing_ok=True)
            return
        sound = [self._holds(path, file) for path, file in zip(self._partials, self._files, strict=True)]
        self.finished = {
            name: n for name, n in (finished or {}).items() if name in self._places and sound[self._places[name][0]]
        }
        if not self.finished:
            self._journal.path.unlink(missing_ok=True)
            os.ftruncate(self._handles[0], 0)
        _check_free_space(self._finals[0], self._missing())
        self._journal.begin(self.finished)
        for path in self._partials[1:]:
            self._handles.append(self._open(path))
        for handle, file, is_sound in zip(self._handles, self._files, sound, strict=True):
            if not is_sound or not self.finished:
                os.ftruncate(handle, 0)
                os.ftruncate(handle, file.size)
                _write_all(handle, memoryview(file.header), 0)

    def _lock(self) -> list[Path]:
        """Opens the first file for us alone; returns what an earlier conversion left."""
        first = self._partials[0]
        before = [path for path in (*self._partials, self._journal.path) if path.exists()]
        self._handles.append(self._open(first))
        try:
            fcntl.flock(self._handles[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(f"{first} is being written by another process") from None
        except OSError:
            return before  # a file system without locks
        mine = os.fstat(self._handles[0])
        if not first.exists() or (first.stat().st_ino, first.stat().st_dev) != (mine.st_ino, mine.st_dev):
            raise ArgumentError(f"{first} has just been finished or removed by another process")
        others = [path for path in (*self._partials[1:], self._journal.path) if path.exists()]
        return [first, *others] if mine.st_size > 0 else others

    def _open(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._stack.callback(os.close, handle)
        return handle

    def _holds(self, path: Path, file: OutputFile) -> bool:
        """Whether a file has the length and the header that are planned."""
        try:
            with path.open("rb") as found:
                return path.stat().st_size == file.size and found.read(len(file.header)) == file.header
        except FileNotFoundError:
            return False

    def _is_all_there(self) -> bool:
        """Whether each file is whole under one of its two names."""
        return all(
            self._holds(partial, file) or self._holds(final, file)
            for partial, final, file in zip(self._partials, self._finals, self._files, strict=True)
        )

    def _missing(self) -> int:
        """Bytes that the disk still has to give."""
        there = sum(512 * path.stat().st_blocks for path in self._partials if path.exists())
        return max(0, sum(file.size for file in self._files) - there)

    def _remove(self) -> None:
        for path in (*self._partials, self._journal.path):
            with contextlib.suppress(OSError):
                path.unlink()

    def _failed(self, error: OSError) -> OutputError:
        kept = f"{self._partials[0]} is kept for --resume" if self._resume else "nothing was written there"
        return OutputError(f"cannot write {self._finals[0]}: {error.strerror or error}; {kept}")


def journal_of(files: Sequence[OutputFile], fingerprint: str) -> Journal:
    """The journal beside the first file."""
    final = Path(os.path.realpath(files[0].path))
    return Journal(final.with_name(f"{final.name}.part.done"), fingerprint)


def _write_all(handle: int, left: memoryview, position: int) -> None:
    while left:
        done = os.pwrite(handle, left, position)
        left, position = left[done:], position + done


def _check_free_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise OutputError(
            f"cannot write {path}: it takes {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free there"
        )


def _sync_folder(folder: Path) -> None:
    """Makes the new names last through a power cut, where the file system lets a folder be synced."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
