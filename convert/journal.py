"""Which tensors of an unfinished file are on the disk for good, so that a conversion that was stopped can go on.

A text file beside the unfinished one: the plan's fingerprint on the first line, then a finished tensor's name on each.
A name is added only after its bytes have been synced, so that even a power cut leaves nothing false in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path


class Journal:
    """``path`` is the journal's file; it is created by :meth:`begin`."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint

    def finished(self) -> set[str] | None:
        """Tensors that an earlier conversion finished; None when there was none or it was of another plan."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        except (FileNotFoundError, UnicodeDecodeError):
            return None
        if not lines or lines[0] != f"{self._fingerprint}\n":
            return None
        return {line[:-1] for line in lines[1:] if line.endswith("\n")}  # the last one may have been cut

    def begin(self, finished: Iterable[str]) -> None:
        """Write it anew."""
        with self.path.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in (self._fingerprint, *finished))

    def add(self, names: Sequence[str], handles: Iterable[int]) -> None:
        """Sync the files, then note that these tensors are in them."""
        for handle in handles:
            os.fsync(handle)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in names)
