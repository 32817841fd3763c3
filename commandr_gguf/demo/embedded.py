"""Where the embedded checkpoint lies, and the GGUF files made of it."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, CommandRError, FileError

CHECKPOINT = Path(__file__).with_name("checkpoint")
"""The folder of the checkpoint, in the layout of Hugging Face."""

_OUTPUT_FAILED, _REFUSED = 1, 2  # exit codes of the converter


def gguf_path(recipe: str = "Q4_K_M", *, notify: Callable[[str], object] | None = None) -> Path:
    """The embedded checkpoint as a GGUF file, converted on the first use.

    It is kept in the user's cache folder, `$XDG_CACHE_HOME` or the platform's own, under a name that changes with the
    checkpoint and with the version of this package. Any number of processes may ask for it at once.

    Args:
        recipe: a file type, such as "Q4_K_M" or "Q8_0".
        notify: called with one sentence before a conversion, which takes some seconds.

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
        _convert(recipe, path)
    return path


def _digest() -> str:
    """16 hexadecimal digits for the checkpoint's files and the version of this package."""
    digest = hashlib.sha256(ffi.string(lib.commandr_version()))
    try:
        for path in sorted(path for path in CHECKPOINT.iterdir() if path.is_file()):
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    except OSError as error:
        raise FileError(f"{CHECKPOINT}: the embedded checkpoint cannot be read: {error.strerror}") from error
    return digest.hexdigest()[:16]


def _convert(recipe: str, path: Path) -> None:
    """Write `path` under another name first: whoever sees it sees it whole, and the last of several writers wins."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"{path.stem}-") as folder:
            partial = Path(folder) / path.name
            _run_converter(recipe, partial)
            partial.replace(path)
    except CommandRError:
        raise
    except OSError as error:
        raise FileError(f"{path}: the demo's model cannot be written: {error.strerror}") from error


def _run_converter(recipe: str, output: Path) -> None:
    command = [sys.executable, "-m", "convert", str(CHECKPOINT), "-o", str(output), "--type", recipe, "--quiet"]
    # A module of the user's that is called convert, too, must not be run instead: the one beside this package is.
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        kind = {_OUTPUT_FAILED: FileError, _REFUSED: ArgumentError}.get(done.returncode, CommandRError)
        raise kind(f"the embedded checkpoint cannot be converted to {recipe}: {last.removeprefix('error: ')}")
