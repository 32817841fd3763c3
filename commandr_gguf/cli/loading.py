"""Loading a model with a progress bar on stderr, when a person is watching."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from commandr_gguf.command_r import CommandR
from commandr_gguf.log import enable_native_log


def load(path: Path, **options: Any) -> CommandR:
    """`CommandR(path, **options)`; the bar goes away when the model is there."""
    if not sys.stderr.isatty():
        return CommandR(path, **options)
    columns = (TextColumn("loading {task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(path.name, total=1.0)
        return CommandR(path, progress=lambda fraction: bar.update(task, completed=fraction), **options)


def set_verbose(verbose: bool) -> None:
    """Print ggml's messages on stderr, or nothing."""
    if verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(message)s", stream=sys.stderr)
    enable_native_log(verbose)
