"""The command line: `commandr`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (None: the process's own); returns the exit code."""
    try:
        from commandr_gguf.cli import app  # noqa: PLC0415  # here, so that Ctrl-C during the imports is caught

        return app.main(arguments)
    except KeyboardInterrupt:
        return 130
