"""How far a measurement has come: a bar on standard error when a person is watching, else nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Update = Callable[[float, str], None]
"""Called with what is done of the total, and a note that stands behind the bar."""


@contextmanager
def progress_bar(what: str, total: float) -> Iterator[Update]:
    """Show a bar while the block runs; it goes away at the end."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, note="")

        def update(done: float, note: str) -> None:
            bar.update(task, completed=done, note=note)

        yield update
