"""Errors as OpenAI's interface tells them."""

from __future__ import annotations

from typing import Any

from commandr_gguf.errors import ContextFullError
from commandr_gguf.server.errors import message_of, status_of

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded"}


def openai_error(error: BaseException) -> dict[str, Any]:
    """The body of the answer to a request that failed; clients choose their exception by its status."""
    status = status_of(error)
    code = "context_length_exceeded" if isinstance(error, ContextFullError) else _CODES.get(status)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message_of(error), "type": kind, "param": None, "code": code}}
