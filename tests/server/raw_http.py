"""HTTP by hand, for clients that do it wrong."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType


@dataclass(frozen=True)
class Answer:
    """What a server answered."""

    status: int
    body: bytes
    """As it came, chunk by chunk."""


class Connection:
    """One connection for one request. Leaving its `async with` block hangs up."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def send(self, method: str, path: str, body: bytes, *, stated: int | None = None) -> None:
        """A request; `stated`: the length that it claims to have."""
        length = len(body) if stated is None else stated
        await self.write(self._head(method, path, f"Content-Length: {length}") + body)

    async def send_chunks(self, path: str, chunks: Iterable[bytes]) -> None:
        """A request of a length that is not stated."""
        await self.write(self._head("POST", path, "Transfer-Encoding: chunked"))
        for chunk in chunks:
            await self.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        await self.write(b"0\r\n\r\n")

    async def write(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def line(self) -> bytes:
        """One line of the answer."""
        return await self._reader.readline()

    async def answer(self) -> Answer | None:
        """The whole answer; None where the server hung up without one."""
        try:
            status = await self._reader.readline()
            rest = await self._reader.read()
        except ConnectionError:
            return None
        if not status:
            return None
        return Answer(int(status.split()[1]), rest.partition(b"\r\n\r\n")[2])

    def abort(self) -> None:
        """Hang up without a farewell."""
        self._writer.transport.abort()

    def _head(self, method: str, path: str, length: str) -> bytes:
        lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self._port}", "Content-Type: application/json")
        return "\r\n".join([*lines, length, "Connection: close", "", ""]).encode()
