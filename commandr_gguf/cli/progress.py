"""How far a measurement has come: a bar on standard error when a person is watching, else nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LONG_PROMPT = 256  # tokens

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


class PromptProgress:
    """How much of a long prompt is read, on one line of standard error; for `progress` of a generation.

    Nothing is shown where no person is watching, in the first second, and of a prompt of few new tokens.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._n_total = 0
        self._n_done = 0
        self._started = 0.0
        self._ends: float | None = None  # as estimated when a part was done
        self._shown = False

    def __call__(self, n_done: int, n_total: int) -> None:
        """Called with the tokens computed and to compute."""
        if not self._is_terminal or n_total < _LONG_PROMPT:
            return
        now = time.monotonic()
        if n_total != self._n_total:
            self._n_total, self._n_done, self._started, self._ends = n_total, 0, now, None
        if n_done > self._n_done:
            self._n_done, self._ends = n_done, self._started + (now - self._started) * n_total / n_done
        if n_done >= n_total:
            self.clear()
        elif now - self._started >= 1.0:
            self._shown = True
            rest = f", {max(0.0, self._ends - now):.0f} s left" if self._ends else ""
            line = f"\rreading the prompt: {n_done} of {n_total} tokens{rest}\x1b[K"
            print(line, end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        self._n_total = 0
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = False
