"""The command `commandr convert`."""

from __future__ import annotations

import runpy
import sys

import typer


def convert(context: typer.Context) -> None:
    """Convert a Hugging Face checkpoint to a GGUF file; the same as `python -m convert`.

    For example: `commandr convert ./c4ai-command-r-08-2024 -o command-r.gguf --type Q4_K_M`
    """
    # By name and at run time: nothing of this package depends on the converter.
    sys.argv = ["commandr convert", *context.args]
    runpy.run_module("convert", run_name="__main__")
