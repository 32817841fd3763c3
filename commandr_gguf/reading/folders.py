"""Which files paths name: files as they are, folders with all below them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from commandr_gguf.errors import FileError


@dataclass(frozen=True)
class FoundFile:
    """A file to read."""

    path: str
    """As the caller's path leads to it."""
    named: bool
    """The caller named it; if not, it was found in a folder."""


def find_files(paths: list[str]) -> list[FoundFile]:
    """The files of `paths`, in their order; folders sorted by name, what begins with a dot left out.

    A file that is reached twice is listed once, and a folder that is reached again through a link is not entered.

    Raises:
        FileError: a path does not exist, or a folder cannot be read.
    """
    files: dict[Path, FoundFile] = {}
    seen: set[Path] = set()
    odd: list[Path] = []
    for name in paths:
        path = Path(name)
        try:
            if path.is_dir():
                for found in _below(path, seen):
                    files.setdefault(found.resolve(), FoundFile(str(found), named=False))
            elif path.is_file():
                files[path.resolve()] = FoundFile(str(path), named=True)
            elif path.lstat():  # it says why when there is nothing
                odd.append(path)
        except OSError as error:
            raise FileError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    if odd:
        raise FileError(f"{odd[0]}: is neither a file nor a folder")
    return list(files.values())


def _below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    real = folder.resolve()
    if real in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, seen)
        elif path.is_file():  # no pipes and devices
            yield path
