"""Calls that run now, so that they can be stopped from another thread."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol, TypeVar


class Stoppable(Protocol):
    """A call that can be told to stop."""

    def cancel(self) -> None:
        """Stop soon; does not wait."""


_T = TypeVar("_T", bound=Stoppable)


class Stop:
    """For a call that returns no stream: `go_on` is its progress function."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Let `go_on` return False from now on."""
        self._cancelled.set()

    def go_on(self, _n_done: int, _n_total: int) -> bool:
        """Whether nobody has called `cancel`."""
        return not self._cancelled.is_set()


class RunningCalls:
    """Those that are registered and not yet gone. Any thread may use it."""

    def __init__(self) -> None:
        self._calls: weakref.WeakSet[Stoppable] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, call: _T) -> _T:
        """Register a call, which is forgotten with its last reference; returns it."""
        with self._lock:
            self._calls.add(call)
        return call

    def cancel(self) -> None:
        """Stop what is registered now."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()
