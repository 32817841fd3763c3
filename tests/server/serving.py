"""A server on a free port, for the time of a test."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from commandr_gguf import CommandR
from commandr_gguf.server.engine import Engine
from commandr_gguf.server.serving import Server, listen
from commandr_gguf.server.settings import Settings

ENDLESS: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Hello"}],
    "response_format": {
        "type": "json_object",
        "json_schema": {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 1500}},
            "required": ["a"],
        },
    },
    "temperature": 1,
    "seed": 1,
}
"""A request whose reply is long: a list of numbers that may not end before 1,500 of them."""


class Running:
    """The server, its engine and its address."""

    def __init__(self, engine: Engine, url: str, server: Server) -> None:
        self.engine = engine
        self.url = url
        self.server = server

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)


@contextlib.contextmanager
def running(model: CommandR, *, settings: dict[str, Any] | None = None, **options: Any) -> Iterator[Running]:
    """A server in a thread of this process; `options` are the engine's."""
    chosen = Settings(**{"port": 0, "grace": 5.0, **(settings or {})})
    engine = Engine(model, **options)
    with listen(chosen) as opened:
        engine.start()
        server = Server(engine, chosen)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        wait_until(lambda: server.started)
        try:
            yield Running(engine, f"http://127.0.0.1:{opened.getsockname()[1]}", server)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def wait_until(condition: Any, seconds: float = 20.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)
