"""The messages of a conversation, as chat templates take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from commandr_gguf.errors import ArgumentError

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn."""

    role: str
    """One of ROLES."""
    content: str


def normalize(messages: Iterable[Mapping[str, Any]]) -> list[Message]:
    """Check messages and give each a content of one string.

    A content may be a string or a list of parts `{"type": "text", "text": ...}`, whose texts are joined.

    Raises:
        ArgumentError: there is no message, or one has an unknown role or a content that is not text.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise ArgumentError("messages must be a list of {'role': ..., 'content': ...}")
    result = [_message(i, message) for i, message in enumerate(messages)]
    if not result:
        raise ArgumentError("messages must hold at least one message")
    return result


def _message(index: int, message: Mapping[str, Any]) -> Message:
    if not isinstance(message, Mapping):
        raise ArgumentError(
            f"message {index} must be a mapping with 'role' and 'content', not {type(message).__name__}"
        )
    role = message.get("role")
    if role not in ROLES:
        raise ArgumentError(f"message {index} has the role {role!r}; known are {', '.join(ROLES)}")
    return Message(role=role, content=_content(index, message.get("content")))


def _content(index: int, content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    raise ArgumentError(f"message {index} has a content that is neither a string nor a list of text parts")
