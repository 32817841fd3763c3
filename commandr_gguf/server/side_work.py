"""Work beside the requests, done in small parts on the engine's thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from commandr_gguf.server.errors import StoppingError

_T = TypeVar("_T")


class SideWork:
    """Generators that take turns: each step runs one of them to its next `yield`."""

    def __init__(self) -> None:
        self._work: deque[tuple[Generator[None, None, Any], Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._is_over = False

    def __len__(self) -> int:
        return len(self._work)

    def add(self, work: Generator[None, None, _T]) -> Future[_T]:
        """Put work behind the others; its result or error will be the future's. From any thread."""
        future: Future[_T] = Future()
        with self._lock:
            self._work.append((work, future))
        return future

    def step(self) -> None:
        """Run the first to its next `yield`."""
        with self._lock:
            if not self._work:
                return
            work, future = self._work.popleft()
        if self._is_over or future.cancelled():
            work.close()
            _settle(future, None, StoppingError("the server is stopping"))
            return
        try:
            next(work)
        except StopIteration as stop:
            _settle(future, stop.value, None)
        except Exception as error:  # noqa: BLE001  # it is the future's
            _settle(future, None, error)
        else:
            with self._lock:
                self._work.append((work, future))

    def cancel(self) -> None:
        """Let all of it end with a StoppingError at its next turn. From any thread."""
        self._is_over = True

    def fail(self, error: Exception) -> None:
        """End all of it with an error."""
        with self._lock:
            ended = list(self._work)
            self._work.clear()
        for work, future in ended:
            work.close()
            _settle(future, None, error)


def _settle(future: Future[Any], result: object, error: Exception | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
