"""Files on their way: written beside their final place and renamed when all of them are whole.

Whatever stops the writing, an error, an interrupt or a full disk, leaves the final paths as they were. What was written
is removed, unless the conversion is to be resumed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from convert.errors import ArgumentError, OutputError
from convert.journal import Journal
from convert.layout import OutputFile


class Writer:
    """Takes blocks of tensors, from any thread, to where ``files`` have them. Use it in a `with` statement.

    ``finished`` are the tensors that need not be written, because an earlier conversion did and ``resume`` is set.
    ``overwrite`` also allows to throw away what an earlier one left. Raises OutputError, which says what happened.
    """

    def __init__(self, files: Sequence[OutputFile], fingerprint: str, *, resume: bool, overwrite: bool) -> None:
        self._resume = resume
        self._overwrite = overwrite
        # A symbolic link stays, and what it points to is replaced.
        self._finals = [Path(os.path.realpath(file.path)) for file in files]
        self._files = list(files)
        self._partials = [path.with_name(f"{path.name}.part") for path in self._finals]
        self._journal = Journal(self._partials[0].with_suffix(".part.done"), fingerprint)
        self._places = {name: (i, offset) for i, file in enumerate(files) for name, offset in file.offsets.items()}
        self._handles: list[int] = []
        self._stack = ExitStack()
        self._ours = False  # what lies there unfinished may be removed
        self.finished: set[str] = set()

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
        left, position = data.data.cast("B"), start + offset
        try:
            while left:
                done = os.pwrite(self._handles[i], left, position)
                left, position = left[done:], position + done
        except OSError as error:
            raise self._failed(error) from error

    def finish(self, names: Sequence[str]) -> None:
        """Note that all of these tensors was written."""
        try:
            self._journal.add(names, self._handles)
        except OSError as error:
            raise self._failed(error) from error

    def commit(self) -> None:
        """Give the files their final names: all is written."""
        try:
            for handle in self._handles:
                os.fsync(handle)
            # The first file is the one that is opened: it comes last.
            for partial, final in reversed(list(zip(self._partials, self._finals, strict=True))):
                partial.replace(final)
            self._journal.path.unlink(missing_ok=True)
            _sync_folder(self._finals[0].parent)
        except OSError as error:
            raise self._failed(error) from error

    def _begin(self) -> None:
        left_over = [path for path in (*self._partials, self._journal.path) if path.exists()]
        if left_over and not self._resume and not self._overwrite:
            raise ArgumentError(
                f"{left_over[0]} is what an unfinished conversion left: --resume goes on with it, --force starts anew"
            )
        self._ours = not left_over
        for path in self._partials:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._stack.callback(os.close, handle)
            self._handles.append(handle)
        self._lock()
        finished = self._journal.finished() if self._resume else None
        if finished is None and self._resume and left_over and not self._overwrite:
            raise ArgumentError(
                f"{left_over[0]} was begun with another checkpoint or other options: --force starts anew"
            )
        self._ours = True
        self.finished = (finished or set()) & self._places.keys()
        if not self.finished:
            _check_free_space(self._finals[0], sum(file.size for file in self._files))
        self._journal.begin(sorted(self.finished))
        for handle, file in zip(self._handles, self._files, strict=True):
            if not self.finished:
                os.ftruncate(handle, 0)
            os.ftruncate(handle, file.size)
            _write_all(handle, file.header)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handles[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ArgumentError(f"{self._partials[0]} is being written by another process") from None
        except OSError:
            pass  # a file system without locks

    def _remove(self) -> None:
        for path in (*self._partials, self._journal.path):
            with contextlib.suppress(OSError):
                path.unlink()

    def _failed(self, error: OSError) -> OutputError:
        kept = f"{self._partials[0]} is kept for --resume" if self._resume else "nothing was written there"
        return OutputError(f"cannot write {self._finals[0]}: {error.strerror or error}; {kept}")


def _write_all(handle: int, data: bytes) -> None:
    left, position = memoryview(data), 0
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
