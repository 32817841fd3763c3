"""The command line: `commandr`."""

from commandr_gguf.cli.app import main

__all__ = ["main"]
