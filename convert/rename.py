"""Several files get their names together, or none does."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path


def rename_all(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Rename files (from, to), the first one last: it is what is opened, and while it is away nobody finds a mix.

    One file replaces another in one step. Of several, those that are replaced stay beside as NAME.replaced until all is
    done. When a step fails, every file is where it was. A pair whose first path is gone was renamed by an earlier call
    that was killed.
    """
    waiting = [(source, target) for source, target in pairs if source.exists()]
    there = [target for _, target in waiting if target.exists() and len(pairs) > 1]
    replaced = {target: target.with_name(f"{target.name}.replaced") for target in there}
    moved: list[tuple[Path, Path]] = []
    try:
        for source, target in [*replaced.items(), *reversed(waiting)]:
            source.replace(target)
            moved.append((source, target))
    except BaseException:
        for source, target in reversed(moved):
            with contextlib.suppress(OSError):
                target.replace(source)
        raise
    for _, target in pairs:  # also what a call that was killed left
        target.with_name(f"{target.name}.replaced").unlink(missing_ok=True)
