"""How far a conversion has come, on standard error: a bar in a terminal, a line per tenth elsewhere."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from convert.blocks import Progress as Callback
from convert.plan import PlannedTensor


@contextmanager
def show_progress(n_bytes: int, *, quiet: bool) -> Iterator[Callback | None]:
    """A callback that is told of each block written, of ``n_bytes`` in all; None when ``quiet``."""
    console = Console(stderr=True)
    if quiet:
        yield None
    elif console.is_terminal:
        bar = Progress(
            TextColumn("{task.fields[tensor]:<24}"),
            BarColumn(),
            TaskProgressColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        with bar:
            task = bar.add_task("", total=n_bytes, tensor="")

            def update(tensor: PlannedTensor, n: int) -> None:
                bar.update(task, advance=n, tensor=tensor.name)

            yield update
    else:
        yield _Lines(n_bytes)


@contextmanager
def show_steps(title: str, n: int, *, quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """A callback for each of ``n`` steps that are done, told its name; None when ``quiet``.

    Where there is no terminal, the title appears with the first step.
    """
    console = Console(stderr=True)
    if quiet:
        yield None
    elif console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=n)
            yield lambda _: bar.advance(task)
    else:
        titles = iter([f"{title}\n"])
        yield lambda _: sys.stderr.writelines(itertools.islice(titles, 1))


class _Lines:
    """Writes a line whenever another tenth of the bytes is done."""

    def __init__(self, n_bytes: int) -> None:
        self._total, self._done, self._tenth = n_bytes, 0, 0
        self._start = time.monotonic()

    def __call__(self, tensor: PlannedTensor, n: int) -> None:
        self._done += n
        tenth = 10 * self._done // self._total
        if tenth <= self._tenth:
            return
        self._tenth = tenth
        seconds = max(time.monotonic() - self._start, 1e-9)
        left = seconds * (self._total - self._done) / self._done
        rate = self._done / seconds / 1e6
        sys.stderr.write(f"{10 * tenth:3d}%  {tensor.name:<28} {rate:8.1f} MB/s  {left:5.0f} s left\n")
        sys.stderr.flush()
