"""The outputs of requests, for who answers them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
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
        """Wait for the end; returns the last output. Whoever waits no more cancels the request.

        Args:
            receive: of the request: when it says that the client has gone, the request is cancelled.
        """
        async with self, watching(receive, self.cancel):
            while True:
                output = await anext(self)
                if output.ended:
                    return output


class Tickets:
    """Several requests that one client waits for. Leaving the `async with` block cancels what is left of them."""

    def __init__(self) -> None:
        self._tickets: list[Ticket] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def add(self, ticket: Ticket) -> None:
        """Put one behind the others."""
        self._tickets.append(ticket)

    def cancel(self) -> None:
        """End all of them with the step that runs."""
        for ticket in self._tickets:
            ticket.cancel()

    async def __aenter__(self) -> Tickets:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for ticket in self._tickets:
            await ticket.__aexit__(kind, error, traceback)

    async def outputs(self) -> AsyncGenerator[tuple[int, Output], None]:
        """The outputs of all as they come, each with its request's number. Raises the first error of any."""
        if len(self._tickets) == 1:  # the usual case, at a third of the cost
            async for output in self._tickets[0]:
                yield 0, output
            return
        waiting = {asyncio.ensure_future(anext(ticket)): number for number, ticket in enumerate(self._tickets)}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in sorted(done, key=lambda future: waiting[future]):
                    number, output = waiting.pop(future), future.result()
                    if not output.ended:
                        waiting[asyncio.ensure_future(anext(self._tickets[number]))] = number
                    yield number, output
        finally:
            for future in waiting:
                future.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def finish(self, receive: Receive) -> list[Output]:
        """Wait for the end of all; returns their last outputs, in their order. See `Ticket.finish`."""
        async with self, watching(receive, self.cancel), contextlib.aclosing(self.outputs()) as outputs:
            last = {number: output async for number, output in outputs}
        return [last[number] for number in sorted(last)]


@contextlib.asynccontextmanager
async def watching(receive: Receive | None, cancel: Callable[[], object]) -> AsyncIterator[None]:
    """Calls `cancel` when the client goes away, as long as the block runs."""

    async def watch(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        cancel()

    watcher = None if receive is None else asyncio.ensure_future(watch(receive))
    try:
        yield
    finally:
        if watcher is not None:
            watcher.cancel()
