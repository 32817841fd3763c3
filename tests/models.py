"""Converted files of the checkpoints of shapes.py, each made once in a test process, and what they should compute."""

from __future__ import annotations

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import shapes
from reference import Reference, read_gguf

GOLDEN = Path(__file__).with_name("golden")
SHAPES = tuple(shapes.SHAPES)


@functools.cache
def folder() -> Path:
    """A folder that lives as long as the test process."""
    path = Path(tempfile.mkdtemp(prefix="commandr-tests-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def convert(checkpoint: Path, out: Path, file_type: str) -> Path:
    """`python -m convert` as a user runs it, unless `out` exists; returns `out`."""
    if out.exists():
        return out
    command = [sys.executable, "-m", "convert", str(checkpoint), "-o", str(out), "--type", file_type]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@functools.cache
def checkpoint(shape: str) -> Path:
    """The checkpoint folder of a shape, the one that the reference logits belong to."""
    return shapes.write_checkpoint(folder() / shape, shape)


@functools.cache
def gguf(shape: str, file_type: str = "F32") -> Path:
    """A converted file of a shape."""
    return convert(checkpoint(shape), folder() / f"{shape}-{file_type}.gguf", file_type)


@functools.cache
def golden(shape: str) -> Mapping[str, npt.NDArray[Any]]:
    """What transformers computes for a shape, see tests/golden/write.py."""
    return dict(np.load(GOLDEN / f"{shape}.npz"))


@functools.cache
def reference(shape: str) -> Reference:
    """The numpy model of a shape."""
    return Reference(checkpoint(shape))


@functools.cache
def _expected(shape: str, tokens: bytes, file_type: str | None) -> npt.NDArray[np.float64]:
    model = reference(shape)
    if file_type is not None:
        model = Reference(checkpoint(shape), weights=read_gguf(gguf(shape, file_type)))
    return model.logits(np.frombuffer(tokens, np.int32))


def expected_logits(shape: str, tokens: npt.ArrayLike, file_type: str | None = None) -> npt.NDArray[np.float64]:
    """[n_tokens, n_vocab] of the numpy model, with the checkpoint's weights or those of a file of ours."""
    return _expected(shape, np.asarray(tokens, np.int32).tobytes(), file_type)
