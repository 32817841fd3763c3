"""Which tensors of unfinished files are on the disk for good, so that a conversion that was stopped can go on.

A text file beside the unfinished ones: the plan's fingerprint on the first line, then a finished tensor's name on each,
with the number of its NaN and infinities behind a tab. A name is added only after its bytes have been synced, so that
even a power cut leaves nothing false in it. The last line is "committing" when all is written.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

_COMMITTING = "committing"


class Journal:
    """``path`` is the journal's file; it is created by :meth:`begin`."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._fingerprint = fingerprint

    def finished(self) -> dict[str, int] | None:
        """Tensors that an earlier conversion finished, with what is no number in them; None for another plan's journal.

        An absent or empty journal says that nothing is finished.
        """
        lines = self._lines()
        if not lines:
            return {}
        if lines[0] != self._fingerprint:
            return None
        entries = (line.partition("\t") for line in lines[1:] if line != _COMMITTING)
        return {name: int(n) if n.isdecimal() else 0 for name, _, n in entries}

    def is_committing(self) -> bool:
        """Whether a conversion of this plan was stopped while its files were given their names."""
        lines = self._lines()
        return len(lines) > 1 and (lines[0], lines[-1]) == (self._fingerprint, _COMMITTING)

    def begin(self, finished: Mapping[str, int]) -> None:
        """Write it anew; what was there stays until all of it is written."""
        temporary = self.path.with_name(f"{self.path.name}.new")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines([f"{self._fingerprint}\n", *_lines_of(finished)])
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def add(self, finished: Mapping[str, int], handles: Iterable[int]) -> None:
        """Sync the files, then note that these tensors are in them."""
        for handle in handles:
            os.fsync(handle)
        self._append(_lines_of(finished))

    def commit(self) -> None:
        """Note that all tensors are synced and the files are about to get their names."""
        self._append([f"{_COMMITTING}\n"])

    def _append(self, lines: Iterable[str]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[str]:
        """Without a last one that was cut."""
        try:
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [line[:-1] for line in lines if line.endswith("\n")]


def _lines_of(finished: Mapping[str, int]) -> list[str]:
    return [f"{name}\t{n}\n" if n else f"{name}\n" for name, n in finished.items()]
