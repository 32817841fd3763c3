"""Messages of ggml and its backends, handed to Python's logging."""

from __future__ import annotations

import atexit
import logging
from typing import Any

from commandr_gguf._native import ffi, lib

logger = logging.getLogger("commandr_gguf.native")

_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}


@ffi.def_extern(name="commandr_py_on_log")  # type: ignore[untyped-decorator]
def _on_log(level: int, text: Any, _user_data: Any) -> None:
    logger.log(_LEVELS.get(level, logging.INFO), "%s", ffi.string(text).decode("utf-8", "replace"))


def enable_native_log(enabled: bool = True) -> None:
    """Send ggml's messages to the logger `commandr_gguf.native`, or drop them again, which is the default.

    Process-wide. Messages may come from any thread.
    """
    lib.commandr_log_set(lib.commandr_py_on_log if enabled else ffi.NULL, ffi.NULL)


# A message that arrives while the interpreter shuts down would run Python code that is gone.
atexit.register(enable_native_log, False)
