"""From errors to answers, in the form of the interface that was asked."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.errors import CommandRError
from commandr_gguf.server.errors import NotAllowedError, QueueFullError, message_of, status_of
from commandr_gguf.server.state import State

logger = logging.getLogger("commandr_gguf.server")

Shape = Callable[[BaseException], Mapping[str, Any]]
"""The body of the answer to a request that failed."""
Handler = Callable[[Request], Awaitable[Response]]
Function = Callable[[Request, State], Awaitable[Response]]
"""What answers requests of one path."""


def cohere_error(error: BaseException) -> dict[str, Any]:
    """As Cohere's interface tells an error."""
    return {"message": message_of(error)}


_UNREAD = {408, 413, 415}
"""Answers to requests whose body nobody reads to its end: no other request can follow on the connection."""
SHAPES: dict[str, Shape] = {}
"""Beginnings of paths -> the form of errors there; elsewhere it is Cohere's."""


def error_response(path: str, error: BaseException) -> Response:
    """The answer to a request that failed."""
    shape = next((shape for start, shape in SHAPES.items() if path.startswith(start)), cohere_error)
    headers: dict[str, str] = {}
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, NotAllowedError):
        headers["WWW-Authenticate"] = "Bearer"
    status = status_of(error)
    if status in _UNREAD:
        headers["Connection"] = "close"
    return JSONResponse(shape(error), status_code=status, headers=headers)


def bound(function: Function, state: State) -> Handler:
    """A handler that answers by a function; see `answering`."""

    async def handler(request: Request) -> Response:
        return await function(request, state)

    return answering(handler)


def answering(handler: Handler) -> Handler:
    """A handler whose errors become answers; those that are not of this package are described in the log only."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except CommandRError as error:
            return error_response(request.url.path, error)
        except Exception as error:  # a defect of ours: no stack trace to a client
            logger.exception("%s failed", request.url.path)
            return error_response(request.url.path, error)

    return handle
