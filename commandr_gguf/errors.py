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

import numbers
import operator
import typing

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
    """An allocation on the host or a device failed, or would fail.

    `fitting` are arguments of `CommandR` with which a model fits that was refused before it was loaded; None when none
    are known.
    """

    def __init__(self, *message: object, fitting: dict[str, typing.Any] | None = None) -> None:
        super().__init__(*message)
        self.fitting = fitting


class ContextFullError(CommandRError):
    """The tokens do not fit in the KV cache; a session with a larger n_ctx may hold them."""


class CancelledError(CommandRError):
    """A load or an evaluation was stopped by its progress callback or by Session.cancel()."""


class BackendError(CommandRError):
    """A ggml backend failed to compute."""


class ClosedError(CommandRError):
    """A model, session or file was used after close()."""


_FLOAT32_MAX = (2 - 2**-23) * 2.0**127

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


def integer(name: str, value: typing.SupportsIndex, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """`value` as an int, numpy's integers included. Raises ArgumentError for what is none, or not in low..high."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ArgumentError(f"{name} must be an integer, not {value!r}")
    if not low <= number <= high:
        allowed = f"{low} or more" if high == 2**63 - 1 and number < low else f"{low} to {high}"
        raise ArgumentError(f"{name} must be {allowed}, not {number}")
    return number


def int32(name: str, value: typing.SupportsIndex) -> int:
    """`value`, when a 32-bit integer holds it. Raises ArgumentError when not."""
    return integer(name, value, -(2**31), 2**31 - 1)


def number(name: str, value: object) -> float:
    """`value` as a float that 32 bits hold; infinities and NaN pass. Raises ArgumentError for what is no number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentError(f"{name} must be a number, not {value!r}")
    try:
        result = float(value)
    except OverflowError:
        result = _FLOAT32_MAX * 2
    if _FLOAT32_MAX < abs(result) < float("inf"):
        raise ArgumentError(f"{name} must be a number of 32 bits, not {value!r}")
    return result


def flag(name: str, value: object) -> bool:
    """`value`, when it is True or False. Raises ArgumentError when not."""
    if not isinstance(value, bool):
        raise ArgumentError(f"{name} must be True or False, not {value!r}")
    return value
