"""From an application to a server that listens, and its orderly end."""

from __future__ import annotations

import asyncio
import functools
import math
import socket
from collections.abc import Callable

import anyio.to_thread
import uvicorn
from sse_starlette.sse import AppStatus

from commandr_gguf.errors import ArgumentError
from commandr_gguf.server.app import make_app
from commandr_gguf.server.engine import Engine
from commandr_gguf.server.settings import Settings

_SPARE_SECONDS = 5
"""Beyond the grace, for the last events of what was cancelled."""


class Server(uvicorn.Server):
    """Serves an engine. When it stops, requests have the settings' grace; the rest is cancelled and answered so."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        AppStatus.enable_automatic_graceful_drain = False  # it would cut streams at once
        super().__init__(
            uvicorn.Config(
                make_app(engine, settings),
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="on",
                timeout_graceful_shutdown=math.ceil(settings.grace) + _SPARE_SECONDS,
            )
        )
        self._engine = engine
        self._grace = settings.grace

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        closing = asyncio.ensure_future(anyio.to_thread.run_sync(functools.partial(self._engine.close, self._grace)))
        await super().shutdown(sockets)
        await closing


def listen(settings: Settings) -> socket.socket:
    """A socket at the settings' address. Raises ArgumentError where that is not to be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"cannot listen on {settings.host} port {settings.port}: {reason}") from error


def serve(engine: Engine, settings: Settings, ready: Callable[[str], object]) -> None:
    """Serve until a signal asks to stop.

    Args:
        engine: not started yet; closed when this returns.
        settings: address, limits and defaults.
        ready: called with the address, such as http://127.0.0.1:8080, once the server listens.

    Raises:
        ArgumentError: it cannot listen there.
    """
    with listen(settings) as opened:
        host, port = opened.getsockname()[:2]
        engine.start()
        ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        try:
            Server(engine, settings).run(sockets=[opened])
        finally:
            engine.close()
