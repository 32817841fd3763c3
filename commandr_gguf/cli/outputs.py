"""Where a command may write: what would fail after hours of work, or destroy a file, is refused before any of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from commandr_gguf.errors import ArgumentError, CommandRError, FileError

Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an existing output file.")]


def check_output(option: str, output: Path, inputs: Iterable[Path | str | None], *, force: bool) -> None:
    """Check that a file can be written, and that nothing is lost with it.

    Args:
        option: as it is typed, for the sentences.
        output: the file; where it is a symbolic link, what that points to will be written.
        inputs: all that is read, such as every file of a split model; None stands for an option that was not given.
        force: whether an existing regular file may be replaced.

    Raises:
        ArgumentError: the path is no place for the file, or what lies there is not to be replaced.
        FileError: the system does not tell what lies there.
    """
    try:
        _check(option, output, inputs, force=force)
    except CommandRError:
        raise
    except OSError as error:  # such as a name that is too long, or a circle of links
        raise FileError(f"{option} {output}: cannot be written: {error.strerror}") from error


def _check(option: str, output: Path, inputs: Iterable[Path | str | None], *, force: bool) -> None:
    folder = Path(os.path.realpath(output)).parent
    if not folder.is_dir():
        raise ArgumentError(f"{option} {output}: its folder does not exist")
    if not os.access(folder, os.W_OK):
        raise ArgumentError(f"{option} {output}: its folder cannot be written to")
    try:
        mode = output.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise ArgumentError(f"{option} {output}: it is a folder")
    if not stat.S_ISREG(mode):
        raise ArgumentError(f"{option} {output}: it is not a regular file and is not replaced")
    if any(path is not None and Path(path).exists() and output.samefile(path) for path in inputs):
        raise ArgumentError(f"{option} {output} would replace what is read")
    if not force:
        raise ArgumentError(f"{option} {output} exists: give --force to replace it")
