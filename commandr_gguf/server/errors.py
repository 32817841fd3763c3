"""What a request can be refused for, beside the errors of the package.

CommandRError
└── RequestError               has the HTTP status of its answer
    ├── QueueFullError (429)       too many requests wait
    ├── SlowBodyError (408)        the body takes too long to arrive
    ├── ClientGoneError (499)      nobody waits for the answer any more
    ├── TimeUpError (504)          a request's time was up before it was begun
    ├── StoppingError (503)        the server is stopping
    ├── EncodedError (415)         the body is compressed
    ├── BodyTooLargeError (413)    the body is larger than the server takes
    ├── NotAllowedError (401)      the key is missing or wrong
    ├── NotFoundError (404)        there is no such model
    └── UnreadableError (422)      a document cannot be read
"""

from __future__ import annotations

from commandr_gguf.errors import (
    ArgumentError,
    BackendError,
    CommandRError,
    ContextFullError,
    FormatError,
    OutOfMemoryError,
    UnsupportedError,
)


class RequestError(CommandRError):
    """A request is refused."""

    status = 400


class QueueFullError(RequestError):
    """Too many requests wait."""

    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        """`retry_after`: seconds until there may be room."""
        super().__init__(message)
        self.retry_after = retry_after


class SlowBodyError(RequestError):
    """The body takes too long to arrive."""

    status = 408


class ClientGoneError(RequestError):
    """Nobody waits for the answer any more."""

    status = 499


class TimeUpError(RequestError):
    """A request's time was up before it was begun."""

    status = 504


class StoppingError(RequestError):
    """The server is stopping."""

    status = 503


class EncodedError(RequestError):
    """The body is compressed."""

    status = 415


class BodyTooLargeError(RequestError):
    """The body is larger than the server takes."""

    status = 413


class NotAllowedError(RequestError):
    """The key is missing or wrong."""

    status = 401


class NotFoundError(RequestError):
    """There is no such model or path."""

    status = 404


class UnreadableError(RequestError):
    """A document cannot be read."""

    status = 422


def status_of(error: BaseException) -> int:
    """The HTTP status of the answer to a request that failed so."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, (ArgumentError, ContextFullError, FormatError)):
        return 400
    if isinstance(error, UnsupportedError):
        return 422
    if isinstance(error, (OutOfMemoryError, BackendError)):
        return 503
    return 500


def message_of(error: BaseException) -> str:
    """What a client is told. Of errors that are not ours it is told nothing."""
    return str(error) if isinstance(error, CommandRError) else "the server failed; its log says why"
