"""Every exception that this package raises on purpose.

CommandRError
├── ArgumentError (ValueError)       an argument is outside its stated range
├── FileError (OSError)              a file cannot be opened, read or written
├── FormatError                      a file is damaged or is not what it should be
├── UnsupportedError                 a valid file or request that this package does not handle
├── OutOfMemoryError (MemoryError)   an allocation on the host or a device failed
├── ContextFullError                 the tokens do not fit in the KV cache
├── CancelledError                   stopped by a progress callback or by Session.cancel()
├── BackendError                     a ggml backend failed to compute
└── ClosedError                      a model, session or file was used after close()
"""

from __future__ import annotations

from commandr_gguf._native import ffi, lib


class CommandRError(Exception):
    """Base of all errors of this package; its text is one sentence for the user."""


class ArgumentError(CommandRError, ValueError):
    """An argument is outside its stated range."""


class FileError(CommandRError, OSError):
    """A file cannot be opened, read or written."""


class FormatError(CommandRError):
    """A file is damaged or is not what it should be."""


class UnsupportedError(CommandRError):
    """A valid file or request that this package does not handle."""


class OutOfMemoryError(CommandRError, MemoryError):
    """An allocation on the host or a device failed."""


class ContextFullError(CommandRError):
    """The tokens do not fit in the KV cache; a session with a larger n_ctx may hold them."""


class CancelledError(CommandRError):
    """A load or an evaluation was stopped by its progress callback or by Session.cancel()."""


class BackendError(CommandRError):
    """A ggml backend failed to compute."""


class ClosedError(CommandRError):
    """A model, session or file was used after close()."""


_BY_STATUS: dict[int, type[CommandRError]] = {
    lib.COMMANDR_ERROR_ARGUMENT: ArgumentError,
    lib.COMMANDR_ERROR_IO: FileError,
    lib.COMMANDR_ERROR_FORMAT: FormatError,
    lib.COMMANDR_ERROR_UNSUPPORTED: UnsupportedError,
    lib.COMMANDR_ERROR_MEMORY: OutOfMemoryError,
    lib.COMMANDR_ERROR_CONTEXT: ContextFullError,
    lib.COMMANDR_ERROR_CANCELLED: CancelledError,
    lib.COMMANDR_ERROR_BACKEND: BackendError,
}


def check(status: int) -> None:
    """Raise the exception that a `commandr_status` stands for; does nothing for COMMANDR_OK."""
    if status == lib.COMMANDR_OK:
        return
    message = ffi.string(lib.commandr_last_error()).decode("utf-8", "replace")
    error = _BY_STATUS.get(status, CommandRError)
    raise error(message or f"the native library failed with status {status}")


def int32(name: str, value: int) -> int:
    """`value`, when a 32-bit integer holds it. Raises ArgumentError when not."""
    if not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise ArgumentError(f"{name} must be an integer of 32 bits, not {value!r}")
    return value
