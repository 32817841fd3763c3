"""A server under clients that hang up, send garbage and take their time; tests/bench/soak.py takes ten minutes of it.

Many clients at once do one thing after the other, most of them wrong. What is well-formed must be answered, what is
not must be refused as it should be, no request may stay behind, and the server's memory must not grow once it is warm.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.raw_http import Answer, Connection

PATHS = ("/v2/chat", "/v1/chat", "/v1/chat/completions", "/v1/completions")
MAX_BODY = 1 << 20
"""Bytes that the server takes."""
WARM = 1 / 3
"""Of the time, until memory is expected to stay."""
_PATIENCE = 60.0
"""Seconds that an answer may take on a busy machine."""
_TEXT = "the bridge of Velmora was opened in 1987 and the old station beside it has a garden by the river"


@dataclass
class Report:
    """What a soak saw."""

    done: Counter[str] = field(default_factory=Counter)
    """What clients did, and how often."""
    wrong: list[str] = field(default_factory=list)
    """What should not have happened."""
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the start, and resident bytes of the server."""

    @property
    def growth(self) -> int:
        """Bytes: the median of the last sixth of the time above that of the first sixth behind the warm-up."""
        end = self.memory[-1][0]
        first = [size for when, size in self.memory if WARM * end <= when < (WARM + 1 / 6) * end]
        last = [size for when, size in self.memory if when >= 5 / 6 * end]
        return int(statistics.median(last) - statistics.median(first))


class Soak:
    """Clients of a server.

    Args:
        port: of the server, on this machine.
        pid: of its process.
        seed: of what the clients do.
    """

    def __init__(self, port: int, pid: int, seed: int = 0) -> None:
        self._port = port
        self._status = Path(f"/proc/{pid}/status")
        self._random = random.Random(seed)
        self.report = Report()

    async def run(self, seconds: float, n_clients: int = 12) -> Report:
        """Let the clients do their worst, then look whether all is as before."""
        started = time.monotonic()
        end = started + seconds
        clients = [asyncio.create_task(self._client(end)) for _ in range(n_clients)]
        while time.monotonic() < end:
            self.report.memory.append((time.monotonic() - started, self.resident()))
            await asyncio.sleep(min(1.0, seconds / 60))
        await asyncio.gather(*clients)
        await self._check_idle()
        return self.report

    def resident(self) -> int:
        """Bytes of the server's memory that are resident."""
        lines = self._status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

    # ---- what clients do

    async def _client(self, end: float) -> None:
        deeds: dict[Callable[[], Awaitable[None]], int] = {
            self._ask: 6,
            self._stream: 6,
            self._hang_up: 4,
            self._hang_up_at_once: 2,
            self._garbage: 2,
            self._stated_too_large: 1,
            self._sent_too_large: 1,
            self._bad_body: 4,
            self._slow_body: 1,
            self._half_body: 1,
            self._wrong_place: 1,
        }
        while time.monotonic() < end:
            deed = self._random.choices(list(deeds), list(deeds.values()))[0]
            name = deed.__name__.strip("_").replace("_", " ")
            try:
                await asyncio.wait_for(deed(), _PATIENCE)
            except Exception as error:  # noqa: BLE001  # the report tells
                self.report.wrong.append(f"{name}: {type(error).__name__} {error}")
            self.report.done[name] += 1

    async def _ask(self) -> None:
        path, body = self._request()
        answer = await self._post(path, json.dumps(body).encode())
        self._expect("a request", answer, 200)
        json.loads(answer.body)

    async def _stream(self) -> None:
        path, body = self._request(stream=True)
        answer = await self._post(path, json.dumps(body).encode())
        self._expect("a stream", answer, 200)
        ends = (b"data: [DONE]", b"message-end", b"stream-end")
        if not any(end in answer.body[-2000:] for end in ends):
            self.report.wrong.append(f"a stream of {path} has no end: {answer.body[-200:]!r}")

    async def _hang_up(self) -> None:
        path, body = self._request(stream=True, max_tokens=200)
        async with self._connection() as connection:
            await connection.send("POST", path, json.dumps(body).encode())
            for _ in range(self._random.randint(1, 12)):
                await connection.line()
            if self._random.random() < 0.5:
                connection.abort()

    async def _hang_up_at_once(self) -> None:
        path, body = self._request(max_tokens=200)
        async with self._connection() as connection:
            await connection.send("POST", path, json.dumps(body).encode())
            await asyncio.sleep(self._random.random() * 0.05)
            connection.abort()

    async def _garbage(self) -> None:
        async with self._connection() as connection:
            await connection.write(self._random.randbytes(self._random.randint(1, 4000)) + b"\r\n\r\n")
            answer = await connection.answer()
            if answer is not None:
                self._expect("garbage", answer, 400)

    async def _stated_too_large(self) -> None:
        async with self._connection() as connection:
            await connection.send("POST", self._path(), b"{", stated=MAX_BODY + 1)
            self._expect("a body stated too large", await connection.answer(), 413)

    async def _sent_too_large(self) -> None:
        async with self._connection() as connection:
            with contextlib.suppress(ConnectionError):  # it need not read what it does not want
                await connection.send_chunks(self._path(), [b" " * 65536] * (MAX_BODY // 65536 + 1))
                answer = await connection.answer()
                if answer is not None:  # hanging up on who still sends can take the answer back
                    self._expect("a body too large", answer, 413)

    async def _bad_body(self) -> None:
        text = json.dumps(self._request()[1]).encode()
        cut = self._random.randrange(1, len(text))
        body = self._random.choice([
            b"", text[:cut], b"[1, 2]", b"null", text[:cut] + b"\xff\xfe" + text[cut:], b'{"messages": 7}',
            b'{"messages": [{"role": "user", "content": "\\ud800"}]}', b"[" * 5000, b'{"messages": [], "prompt": {}}',
        ])  # fmt: skip
        self._expect("a bad body", await self._post(self._path(), body), 400, 422)

    async def _slow_body(self) -> None:
        path, body = self._request()
        text = json.dumps(body).encode()
        async with self._connection() as connection:
            await connection.send("POST", path, text[:20], stated=len(text))
            for i in range(20, len(text), 60):
                await asyncio.sleep(0.05)
                await connection.write(text[i : i + 60])
            self._expect("a slow request", await connection.answer(), 200)

    async def _half_body(self) -> None:
        async with self._connection() as connection:
            await connection.send("POST", self._path(), b'{"messages": ', stated=500)
            await asyncio.sleep(self._random.random())

    async def _wrong_place(self) -> None:
        path = self._random.choice(["/v1/nothing", "/v3/chat", "/..%2f..%2fetc/passwd", "/static/../../x"])
        self._expect("a wrong path", await self._post(path, b"{}"), 404, 405)

    # ---- requests

    def _path(self) -> str:
        return self._random.choice(PATHS)

    def _request(self, *, stream: bool = False, max_tokens: int = 12) -> tuple[str, dict[str, Any]]:
        """A path and a well-formed request."""
        path = self._path()
        text = " ".join(self._random.choices(_TEXT.split(), k=self._random.randint(1, 120)))
        body: dict[str, Any] = {"model": "any", "stream": stream, "max_tokens": self._random.randint(1, max_tokens)}
        if path == "/v1/completions":
            return path, body | {"prompt": text}
        if path == "/v1/chat":
            body["message"] = text
        else:
            body["messages"] = [{"role": "user", "content": text}]
        if self._random.random() < 0.3:
            body["documents"] = [{"text": text}] if path == "/v1/chat" else [text]
        return path, body

    def _connection(self) -> Connection:
        return Connection(self._port)

    async def _post(self, path: str, body: bytes) -> Answer:
        async with self._connection() as connection:
            await connection.send("POST", path, body)
            answer = await connection.answer()
            if answer is None:
                raise ConnectionError("there was no answer")
            return answer

    def _expect(self, what: str, answer: Answer | None, *statuses: int) -> None:
        if answer is None:
            self.report.wrong.append(f"{what} got no answer")
        elif answer.status not in statuses or b"Traceback" in answer.body:
            self.report.wrong.append(f"{what} got {answer.status}: {answer.body[:300]!r}")

    # ---- the end

    async def _check_idle(self) -> None:
        """No request is left behind, and there is room for as many as ever."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            text = (await self._get("/metrics")).decode()
            counts = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
            if float(counts["commandr_requests_active"]) == float(counts["commandr_requests_waiting"]) == 0:
                break
            await asyncio.sleep(0.1)
        else:
            self.report.wrong.append("requests stayed behind when all clients had gone")
        n_slots = json.loads(await self._get("/props"))["parallel"]
        await asyncio.gather(*(self._ask() for _ in range(4 * n_slots)))

    async def _get(self, path: str) -> bytes:
        async with self._connection() as connection:
            await connection.send("GET", path, b"")
            answer = await connection.answer()
        return b"" if answer is None else answer.body
