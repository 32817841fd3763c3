"""What stands in front of every handler: request ids, the log, the host's name, the key."""

from __future__ import annotations

import hmac
import json
import logging
import re
import time
import uuid
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commandr_gguf.errors import ArgumentError
from commandr_gguf.server.answers import error_response
from commandr_gguf.server.errors import NotAllowedError, SlowBodyError
from commandr_gguf.server.settings import is_loopback

logger = logging.getLogger("commandr_gguf.server.requests")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN_PATHS = frozenset({"/", "/health"})
"""What may be asked without a key; the page asks for one itself."""
OPEN_FOLDER = "/static/"
"""Below it lie the page's files, which may be asked for without a key, too."""


class RequestLog:
    """Gives each request an id, its own where it has one, and writes one line of JSON about it when it has ended.

    Handlers add to the line what they put into `scope["state"]["log"]`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        notes: dict[str, Any] = {}
        scope.setdefault("state", {})["log"] = notes
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            line = {"id": request_id, "method": scope["method"], "path": scope["path"], "status": status}
            line |= {"seconds": round(time.monotonic() - started, 3), **notes}
            logger.info("%s", json.dumps(line, ensure_ascii=False))


class HostCheck:
    """Lets requests through that name this machine as their host.

    A page of a foreign name that was made to resolve to this machine could otherwise read answers: to a browser the
    server would be the page's own.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        host = Headers(scope=scope).get("host", "localhost") if scope["type"] == "http" else "localhost"
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if is_loopback(name.lower()):
            await self._app(scope, receive, send)
            return
        answer = error_response(scope["path"], ArgumentError("without a key this server answers to localhost only"))
        await answer(scope, receive, send)


class KeyCheck:
    """Lets requests through that carry the key: `Authorization: Bearer KEY`."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        is_open = scope["type"] != "http" or scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_FOLDER)
        if is_open or self._has_key(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        answer = error_response(scope["path"], NotAllowedError("the API key is missing or wrong"))
        await answer(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(key.strip().encode("latin-1", "replace"), self._key)  # takes as long either way
        return is_right and scheme.lower() == "bearer"


class BodyTimer:
    """Ends requests whose bodies take too long to arrive: who reads such a body gets a SlowBodyError."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        end = anyio.current_time() + self._seconds
        is_there = scope["type"] != "http"

        async def receive_in_time() -> Message:
            nonlocal is_there
            if is_there:
                return await receive()
            try:
                with anyio.fail_after(max(end - anyio.current_time(), 0)):
                    message = await receive()
            except TimeoutError:
                raise SlowBodyError(f"the body did not arrive within {self._seconds:g} seconds") from None
            is_there = not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)
