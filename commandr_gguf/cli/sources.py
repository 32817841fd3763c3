"""What a chat is given beside its messages: files as documents, and Python functions as tools."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from commandr_gguf.chat.toolbox import Toolbox
from commandr_gguf.cli.format import count
from commandr_gguf.errors import ArgumentError
from commandr_gguf.reading import read_documents


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The documents in files and folders; what was skipped, and how many there are, is said on standard error."""

    def skipped(_path: str, reason: str) -> None:
        print(f"commandr: skipped: {reason}", file=sys.stderr)

    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", visible=False)  # there is nothing to show until it is known how many files there are
        documents = read_documents(
            paths,
            on_skip=skipped,
            progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True),
        )
    n_files = len({document["id"].rpartition("#")[0] for document in documents})
    print(f"commandr: {count(len(documents), 'part')} of {count(n_files, 'file')}", file=sys.stderr)
    return documents


def load_functions(names: Sequence[str]) -> list[Callable[..., Any]]:
    """The functions that `module:function` stand for, checked as tools; modules of the working folder are found, too.

    What they print goes to standard error: standard output carries the replies.

    Raises:
        ArgumentError: a name has another form, there is no such module or function, or it cannot be a tool.
    """
    with contextlib.redirect_stdout(sys.stderr):  # modules may print, too
        functions = [_load_function(name) for name in names]
    Toolbox(functions)
    return [_quiet(function) for function in functions]


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, printing to standard error.

    This redirects the whole process. It does no harm where a chat waits for the result, and does while another thread
    prints replies: a function that runs into a limit of time goes on in one. `commandr chat` has no such limit.
    """

    @functools.wraps(function)
    def call(**arguments: Any) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return function(**arguments)

    return call


def _load_function(name: str) -> Callable[..., Any]:
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ArgumentError(f"--tools must be MODULE:FUNCTION, not {name!r}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may fail in any way
        reason = f"{type(error).__name__}: {error}"
        raise ArgumentError(f"--tools {name}: the module {module_name!r} cannot be imported: {reason}") from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ArgumentError(f"--tools {name}: the module {module_name!r} has no function {path!r}")
    function: Callable[..., Any] = found
    return function
