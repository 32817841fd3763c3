"""`python -m commandr_gguf.server.reader NAME < FILE` prints a file's passages as JSON, or why there are none.

The output is a list of `{"title": ..., "text": ...}`, or `{"message": ...}`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from commandr_gguf.errors import CommandRError
from commandr_gguf.reading import read_passages

MAX_BYTES = 4 << 30
"""Of address space: a file may unpack to any size, and the server holds a model on the same machine."""


def limit_memory() -> None:
    """Take no more than MAX_BYTES, where the system knows such a limit."""
    try:
        import resource  # noqa: PLC0415  # not every system has it
    except ModuleNotFoundError:
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(
        resource.RLIMIT_AS, (MAX_BYTES if hard == resource.RLIM_INFINITY else min(MAX_BYTES, hard), hard)
    )


def read(name: str, data: bytes) -> Any:
    """What is printed."""
    try:
        return read_passages(name, data)
    except CommandRError as error:
        return {"message": str(error)}
    except MemoryError:
        return {"message": f"{name}: reading it takes too much memory"}


if __name__ == "__main__":
    limit_memory()
    json.dump(read(sys.argv[1], sys.stdin.buffer.read()), sys.stdout)
