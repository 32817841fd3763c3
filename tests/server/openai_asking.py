"""What the tests of OpenAI's interfaces ask, and the client they ask with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import openai

from commandr_gguf.chat.json_schema import to_json_schema
from commandr_gguf.demo import showcase
from server.serving import Running

DOCUMENTS: list[Any] = [
    {"id": "bridge", "data": {"title": "Velmora Bridge", "text": "The Velmora Bridge was opened in 1987."}},
    {"data": {"title": "Harrow Library", "text": "The Harrow Library is headed by Nora Quill."}},
]
WHEN: list[Any] = [{"role": "user", "content": "When was the Velmora Bridge opened?"}]
HELLO: list[Any] = [{"role": "user", "content": "Hello, who are you?"}]
BOOK: list[Any] = [{"role": "user", "content": showcase.TOOL_QUESTION}]
TABLE: dict[str, Any] = {
    "name": showcase.BOOKING["name"],
    "description": showcase.BOOKING["description"],
    "parameters": {**to_json_schema(showcase.BOOKING), "additionalProperties": False},
}
SWITCH: dict[str, Any] = {
    "name": "light",
    "description": "",
    "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]},
}
AGE: dict[str, Any] = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
GREEDY: dict[str, Any] = {"model": "any name", "temperature": 0}


def function(described: dict[str, Any]) -> Any:
    """A tool as /v1/chat/completions has it."""
    return {"type": "function", "function": described}


@contextlib.contextmanager
def asking(server: Running, **options: Any) -> Iterator[openai.OpenAI]:
    """A client that repeats nothing."""
    settings = {"api_key": "none", "base_url": f"{server.url}/v1", "max_retries": 0, "timeout": 60, **options}
    with openai.OpenAI(**settings) as client:
        yield client
