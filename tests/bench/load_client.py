"""Streams of a server's /v1/completions, timed: for server_load.py.

The client shares the machine with the servers, so it does little while they work: one thread, sockets read line by
line, each line kept with the time at which it came. What the lines say is looked at afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

_LIMIT = 1 << 22
"""Bytes of a line."""
_PAUSE = 0.3
"""Seconds that servers get to notice clients that hung up."""


class ServerError(Exception):
    """A server did not answer as it should."""


@dataclass
class Stream:
    """A request and its answer, by the clock of time.perf_counter."""

    body: dict[str, Any]
    sent: float = 0.0
    lines: list[tuple[float, bytes]] = field(default_factory=list)
    """The answer's events, as they came."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the first text."""

    def times(self) -> list[float]:
        """When each piece of text came."""
        return [when for when, event in self._events() if any(choice["text"] for choice in event["choices"])]

    def gaps(self, begin: float = 0.0, end: float = float("inf")) -> list[float]:
        """Seconds between pieces of text, of those pairs that touch the time from `begin` to `end`."""
        times = self.times()
        return [b - a for a, b in itertools.pairwise(times) if b >= begin and a <= end]

    def check(self, n_tokens: int) -> None:
        """Raises ServerError unless the server wrote this many tokens, as far as it says so, and stopped for that."""
        events = [event for _, event in self._events()]
        reasons = [choice.get("finish_reason") for event in events for choice in event["choices"]]
        reason = next((reason for reason in reasons if reason), None)
        usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
        written = len(self.times()) if usage is None else usage["completion_tokens"]
        if reason != "length" or (usage is not None and written != n_tokens) or written > n_tokens:
            raise ServerError(f"a stream ended by {reason} after {written} of {n_tokens} tokens: {self.lines[-1:]}")

    def _events(self) -> list[tuple[float, dict[str, Any]]]:
        texts = ((when, line[len(b"data: ") :].strip()) for when, line in self.lines)
        return [(when, json.loads(text)) for when, text in texts if text != b"[DONE]"]


async def run_stream(stream: Stream, port: int) -> None:
    """Send the request, keep the answer. Cancelling it hangs up."""
    body = json.dumps(stream.body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LIMIT)
    try:
        stream.sent = time.perf_counter()
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise ServerError(f"{status.decode().strip()}: {(await reader.read(2000)).decode(errors='replace')}")
        while line := await reader.readline():
            if line.startswith(b"data: "):
                stream.lines.append((time.perf_counter(), line))
                stream.started.set()
                if line.startswith(b"data: [DONE]"):
                    break
    finally:
        writer.close()


async def run_together(bodies: Sequence[dict[str, Any]], port: int) -> list[Stream]:
    """Streams that begin at once."""
    streams = [Stream(body) for body in bodies]
    await asyncio.gather(*(run_stream(stream, port) for stream in streams))
    return streams


async def run_newcomer(
    bodies: Sequence[dict[str, Any]], newcomer: dict[str, Any], port: int, *, n_quiet: int
) -> tuple[list[Stream], Stream]:
    """Streams that run while a newcomer's prompt is read.

    Args:
        bodies: of the streams, which end when the newcomer's first token has come.
        newcomer: begins when each of the others has `n_quiet` pieces of text.
        port: of the server.
        n_quiet: pieces.

    Raises:
        ServerError: a stream ended before the newcomer began to write.
    """
    streams, late = [Stream(body) for body in bodies], Stream(newcomer)
    tasks = [asyncio.create_task(run_stream(stream, port)) for stream in streams]
    try:
        await _until(lambda: all(len(stream.lines) >= n_quiet for stream in streams), tasks)
        await run_stream(late, port)
        if any(task.done() for task in tasks):
            raise ServerError("a stream ended before the newcomer began: let it write more tokens")
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(_PAUSE)
    return streams, late


async def _until(condition: Callable[[], bool], tasks: Sequence[asyncio.Task[None]]) -> None:
    while not condition():
        for task in tasks:
            if task.done():
                task.result()
                raise ServerError("a stream ended early")
        await asyncio.sleep(0.02)
