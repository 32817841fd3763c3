"""Several files get their names together, or none does."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path


def rename_all(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Rename files (from, to), the first one last: it is what is opened, and while it is away nobody finds a mix.

    Files that are replaced stay beside as NAME.old until all is done. When a step fails, every file is where it was.
    A pair whose first path is gone was renamed by an earlier call that was killed.
    """
    waiting = [(source, target) for source, target in pairs if source.exists()]
    old = {target: target.with_name(f"{target.name}.old") for _, target in waiting if target.exists()}
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in [*old.items(), *reversed(waiting)]:
            source.replace(target)
            moved.append((source, target))
    except BaseException:
        for source, target in reversed(moved):
            with contextlib.suppress(OSError):
                target.replace(source)
        raise
    for path in old.values():
        path.unlink(missing_ok=True)
