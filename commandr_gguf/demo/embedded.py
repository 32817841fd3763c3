"""Where the embedded checkpoint lies, and the GGUF files made of it."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

import platformdirs

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, CommandRError, FileError

CHECKPOINT = Path(__file__).with_name("checkpoint")
"""The folder of the checkpoint, in the layout of Hugging Face."""
CONVERTER = Path(__file__).parents[2] / "convert"
"""The folder of the converter's sources. It is run as a program and never imported from here."""

_OUTPUT_FAILED, _REFUSED = 1, 2  # exit codes of the converter
_TENTH = re.compile(r" *(\d+)%  ")  # what it prints, where no person watches, for each tenth that is done


def gguf_path(
    recipe: str = "Q4_K_M",
    *,
    notify: Callable[[str], object] | None = None,
    progress: Callable[[float], object] | None = None,
) -> Path:
    """The embedded checkpoint as a GGUF file, converted on the first use.

    It is kept in the user's cache folder, `$XDG_CACHE_HOME` or the platform's own, under a name that changes with the
    checkpoint, the converter and the version of this package. Any number of processes may ask for it at once.

    Args:
        recipe: a file type, such as "Q4_K_M" or "Q8_0".
        notify: called with one sentence before a conversion, which takes some seconds.
        progress: called with the fraction of the conversion that is done, in tenths. What it raises stops the
            conversion, of which nothing is left.

    Raises:
        ArgumentError: there is no such recipe.
        FileError: the checkpoint cannot be read or the converted file cannot be written.
        CommandRError: the conversion failed in another way.
    """
    if not isinstance(recipe, str) or not re.fullmatch(r"[A-Za-z0-9_]+", recipe):
        raise ArgumentError(f"the recipe must be the name of a file type, such as Q4_K_M, not {recipe!r}")
    recipe = recipe.upper()
    folder = platformdirs.user_cache_path("commandr-gguf", appauthor=False).absolute()
    path = folder / f"demo-{recipe}-{_digest()}.gguf"
    if not path.exists():
        if notify is not None:
            notify(f"converting the embedded checkpoint to {recipe}: {path}")
        _convert(recipe, path, progress)
    return path


def _digest() -> str:
    """16 hexadecimal digits for the checkpoint's files, the converter's sources and the version of this package."""
    digest = hashlib.sha256(ffi.string(lib.commandr_version()))
    try:
        files = [path for path in CHECKPOINT.iterdir() if path.is_file()]
        for path in (*sorted(CONVERTER.glob("*.py")), *sorted(files)):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    except OSError as error:
        raise FileError(f"{CHECKPOINT}: the embedded checkpoint cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _convert(recipe: str, path: Path, progress: Callable[[float], object] | None) -> None:
    """Write `path` under another name first: whoever sees it sees it whole, and the last of several writers wins."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}-") as folder:
            _run_converter(recipe, Path(folder), path.name, progress)
            (Path(folder) / path.name).replace(path)
    except CommandRError:
        raise
    except OSError as error:
        remedy = "set XDG_CACHE_HOME to a folder that can be written to"
        raise FileError(f"{path}: the demo's model cannot be written: {error.strerror}; {remedy}") from error


def _run_converter(recipe: str, folder: Path, name: str, progress: Callable[[float], object] | None) -> None:
    """Convert to the file `name` in `folder`, which is empty."""
    # A module of the user's that is called convert, too, must not be run instead: the one beside this package is. The
    # first place to be searched is the working folder, or with PYTHONSAFEPATH is not.
    python_path = os.pathsep.join(filter(None, (str(CONVERTER.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "convert", str(CHECKPOINT.absolute()), "-o", name, "--type", recipe]
    try:
        process = Popen(
            command,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": python_path},
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        problem = f"{sys.executable}: {error.strerror}"
        raise CommandRError(f"the embedded checkpoint cannot be converted to {recipe}: {problem}") from error
    last = ""
    with process:
        try:
            for line in process.stderr or ():
                last = line.strip() or last
                if progress is not None and (tenth := _TENTH.match(line)):
                    progress(int(tenth[1]) / 100)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        last = last.removeprefix("error: ") or f"exit code {process.returncode}"
        kind = {_OUTPUT_FAILED: FileError, _REFUSED: ArgumentError}.get(process.returncode, CommandRError)
        raise kind(f"the embedded checkpoint cannot be converted to {recipe}: {last}")
