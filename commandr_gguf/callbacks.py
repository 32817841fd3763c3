"""Python functions that the native library calls while it works, and what becomes of exceptions in them.

An exception cannot pass through C. It is kept, the library is told to stop, and `reraise` raises it once the native
call has returned. That is also how Ctrl-C interrupts a native call: the library calls back about every 50 ms, which
lets Python raise the pending KeyboardInterrupt here.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from commandr_gguf._native import ffi


class Callback:
    """A progress function, or none, and the exception of its last call."""

    def __init__(self, function: Callable[..., object] | None) -> None:
        self.function = function
        self._error: BaseException | None = None

    def call(self, *arguments: Any) -> bool:
        """Whether to go on: the function returned anything but False and raised nothing."""
        if self._error is not None:
            return False
        if self.function is None:
            return True
        try:
            return self.function(*arguments) is not False
        except BaseException as error:  # noqa: BLE001  # `reraise` raises it
            self._error = error
            return False

    def fail(self, error: BaseException) -> None:
        """Remember an exception that was raised around `call`."""
        self._error = error

    def reraise(self) -> None:
        """Raise what was remembered, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def _on_error(_type: object, error: BaseException, traceback: TracebackType | None) -> bool:
    # A KeyboardInterrupt may arrive before the first line of the callback, outside of every `try` in it.
    user_data = traceback.tb_frame.f_locals.get("user_data") if traceback else None
    if user_data:
        ffi.from_handle(user_data).fail(error)
    return False


@ffi.def_extern(name="commandr_py_on_load", error=False, onerror=_on_error)  # type: ignore[untyped-decorator]
def _on_load(fraction: float, user_data: Any) -> bool:
    callback: Callback = ffi.from_handle(user_data)
    return callback.call(fraction)


@ffi.def_extern(name="commandr_py_on_eval", error=False, onerror=_on_error)  # type: ignore[untyped-decorator]
def _on_eval(n_done: int, n_total: int, user_data: Any) -> bool:
    callback: Callback = ffi.from_handle(user_data)
    return callback.call(n_done, n_total)
