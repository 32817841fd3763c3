"""The outputs of one request, for who answers it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any

from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.server.engine import Engine
from commandr_gguf.server.jobs import Failure, Job, Output
from commandr_gguf.stream import GenerationStream

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Ticket(AsyncIterator[Output]):
    """Submits a request and gives its outputs, step by step. Leaving its `async with` block cancels what is left.

    Made in a running event loop. Iterating raises the error that the request failed with.

    Raises:
        QueueFullError, StoppingError, ContextFullError: see `Engine.submit`.
    """

    def __init__(self, engine: Engine, stream: ReplyStream | GenerationStream, *, timeout: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        outputs: asyncio.Queue[Output | Failure] = asyncio.Queue()

        def deliver(output: Output | Failure) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(outputs.put_nowait, output)

        self._engine = engine
        self._outputs = outputs
        self._ended = False
        self._job = Job(stream, deliver, timeout=timeout)
        engine.submit(self._job)

    async def __anext__(self) -> Output:
        if self._ended:
            raise StopAsyncIteration
        output = await self._outputs.get()
        if isinstance(output, Failure):
            self._ended = True
            raise output.error
        self._ended = output.ended
        return output

    def cancel(self) -> None:
        """End the request with the step that runs; its last output says so."""
        self._engine.cancel(self._job)

    async def __aenter__(self) -> Ticket:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._ended:
            self.cancel()

    async def finish(self, receive: Receive | None = None) -> Output:
        """Wait for the end; returns the last output.

        Args:
            receive: of the request: when it says that the client has gone, the request is cancelled.
        """
        watcher = None if receive is None else asyncio.ensure_future(self._watch(receive))
        try:
            while True:
                output = await anext(self)
                if output.ended:
                    return output
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancel()
