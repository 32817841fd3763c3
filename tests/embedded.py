"""The embedded checkpoint, converted in a cache folder of the tests' own."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from commandr_gguf.demo.embedded import gguf_path


@functools.cache
def environment() -> dict[str, str]:
    """Environment variables that make a temporary folder of this test process the user's cache folder."""
    folder = tempfile.mkdtemp(prefix="commandr-tests-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Where the platform does not look at the first, its cache folder is below the home folder.
    return {"XDG_CACHE_HOME": folder, "HOME": folder}


def path(recipe: str = "Q4_K_M") -> Path:
    """The embedded model's file of a recipe, made once in a test process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        return gguf_path(recipe)


def run_environment() -> dict[str, str]:
    """For child processes that use the embedded model."""
    return os.environ | environment()
