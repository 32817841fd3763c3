"""Bodies of requests, checked."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar, cast

from starlette.requests import ClientDisconnect, Request

from commandr_gguf.errors import ArgumentError
from commandr_gguf.server.errors import BodyTooLargeError, EncodedError

_T = TypeVar("_T")
_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")


async def read_body(request: Request, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a body. Raises ArgumentError: it is not in UTF-8, or no JSON object; and as `read_bytes`."""
    return parse_body(await read_bytes(request, max_bytes))


async def read_bytes(request: Request, max_bytes: int) -> bytes:
    """A body.

    Raises:
        BodyTooLargeError: it is larger than `max_bytes`, as stated or as received.
        EncodedError: it is compressed.
        ArgumentError: the client went away before its end.
    """
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and len(stated) < 20 and int(stated) > max_bytes:
        _too_large(max_bytes)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise EncodedError(f"the body must not be compressed, and its Content-Encoding is {brief(encoding)}")
    parts: list[bytes] = []
    n_bytes = 0
    try:
        async for part in request.stream():
            n_bytes += len(part)
            if n_bytes > max_bytes:
                _too_large(max_bytes)
            parts.append(part)
    except ClientDisconnect:
        raise ArgumentError("the body ends early") from None
    return b"".join(parts)


def parse_body(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises ArgumentError: it is not in UTF-8, or no JSON object."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(f"the body is no text in UTF-8: byte {error.start} is wrong") from None
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise ArgumentError("the body is nested too deeply") from None
    except ValueError as error:
        raise ArgumentError(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentError("the body must be a JSON object")
    if "\\u" in text and _HALF_PAIR.search(json.dumps(value, ensure_ascii=False)):
        raise ArgumentError("the body spells half of a surrogate pair, which is no character")
    return value


def field(body: Mapping[str, Any], name: str, kind: type[_T], default: _T | None = None) -> _T | None:
    """A value of the body, `default` where it is missing or null. Raises ArgumentError where it is of another kind."""
    value = body.get(name)
    if value is None:
        return default
    is_bool = isinstance(value, bool)
    if kind is float and isinstance(value, int) and not is_bool:
        try:
            return cast("_T", float(value))
        except OverflowError:
            raise ArgumentError(f"{name} is too large") from None
    if not isinstance(value, kind) or (is_bool and kind is not bool):
        raise ArgumentError(f"{name} must be {_NAMES[kind]}, not {brief(value)}")
    return value


def required(body: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    """A value that must be there. Raises ArgumentError where it is not or is of another kind."""
    value = field(body, name, kind)
    if value is None:
        raise ArgumentError(f"{name} is missing")
    return value


def strings(body: Mapping[str, Any], name: str, n_most: int | None = None) -> list[str]:
    """A list of strings, empty where it is missing. Raises ArgumentError where it is another thing or too long."""
    values = field(body, name, list, [])
    if not all(isinstance(value, str) for value in values or []):
        raise ArgumentError(f"{name} must be a list of strings")
    if n_most is not None and len(values or []) > n_most:
        raise ArgumentError(f"{name} may have {n_most} elements at most, not {len(values or [])}")
    return values or []


def choice(body: Mapping[str, Any], name: str, allowed: Mapping[str, _T], default: _T) -> _T:
    """What a word stands for, in letters of any case. Raises ArgumentError for a word that is not allowed."""
    word = field(body, name, str)
    if word is None:
        return default
    if word.upper() not in allowed:
        raise ArgumentError(f"{name} must be one of {', '.join(allowed)}, not {brief(word)}")
    return allowed[word.upper()]


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Lets errors about fields, in the block, say that these are fields of `name`."""
    try:
        yield
    except ArgumentError as error:
        raise ArgumentError(f"{name}.{error}") from None


def brief(value: object) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _too_large(max_bytes: int) -> NoReturn:
    raise BodyTooLargeError(f"the body is larger than the {max_bytes} bytes that this server takes")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
