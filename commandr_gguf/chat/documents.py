"""The documents that a grounded answer rests on, as chat templates take them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from commandr_gguf.errors import ArgumentError

Document = Mapping[str, Any]
"""Keys and values that the model reads in this order, such as title and text; or `{"id": ..., "data": ...}`."""


@dataclass(frozen=True)
class CheckedDocument:
    """A document that was checked."""

    id: str
    """What citations name it by: the caller's, or its number as text."""
    data: dict[str, Any]
    """JSON values by key, as given."""

    @property
    def texts(self) -> dict[str, str]:
        """The values as the model reads them in Command-R's prompts: as Python prints them, nested ones as JSON."""
        return {key: value_text(value) for key, value in self.data.items()}


def normalize_documents(documents: Iterable[str | Document]) -> list[CheckedDocument]:
    """Check documents and bring them into one form. Their numbers are their places in this list, counted from 0.

    A document is one of

    - a string, which becomes `{"text": ...}`;
    - a mapping of keys to strings, numbers, dates or nested values. All of it is shown to the model; a string or an
      integer under "id" is its id as well;
    - `{"id": ..., "data": ...}` or `{"data": ...}`, where data is a string or a mapping: only the data is shown.

    A document without an id has its number as text for one: "0", "1" and so on.

    Raises:
        ArgumentError: a document is in none of these forms, it is empty but for its id, or two have one id.
    """
    if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Iterable):
        raise ArgumentError("documents must be a list of strings or of mappings such as {'title': ..., 'text': ...}")
    result = [_document(number, document) for number, document in enumerate(documents)]
    numbers: dict[str, int] = {}
    for number, document in enumerate(result):
        first = numbers.setdefault(document.id, number)
        if first != number:
            raise ArgumentError(f"documents {first} and {number} have the same id {document.id!r}")
    return result


def document_values(where: str, data: object, text_key: str = "text") -> dict[str, Any]:
    """The values of one document: those of a mapping, or one under `text_key` for a text.

    A text that is a JSON object counts as a mapping: Cohere's interface gives results of tools so.

    Raises:
        ArgumentError: it is neither, it holds what JSON has not, or nothing; the text begins with `where`.
    """
    if isinstance(data, str):
        data = _json_object(data) or {text_key: data}
    if not isinstance(data, Mapping):
        raise ArgumentError(f"{where} must be a string or a mapping, not {type(data).__name__}")
    for key, value in data.items():
        if not isinstance(key, str):
            raise ArgumentError(f"{where} has the key {key!r}; keys must be strings")
        _check(f"{where} under {key!r}", value)
    return {key: _plain(value) for key, value in data.items()}


def value_text(value: Any) -> str:
    """A document's value as the model reads it in Command-R's prompts: as Python prints it, a nested one as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _document(number: int, document: object) -> CheckedDocument:
    where = f"document {number}"
    name: object = None
    if isinstance(document, Mapping):
        name = document.get("id")
        if "data" in document and document.keys() <= {"id", "data"}:
            document = document["data"]
            if isinstance(document, str):
                document = _json_object(document) or document
    data = {"text": document} if isinstance(document, str) else document_values(where, document)
    if all(key == "id" or value is None or value in ("", [], {}) for key, value in data.items()):
        raise ArgumentError(f"{where} is empty{' but for its id' if 'id' in data else ''}")
    return CheckedDocument(id=str(number) if name is None else _id(where, name), data=data)


def _id(where: str, name: object) -> str:
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise ArgumentError(f"{where} must have a string under 'id', not {name!r}")
    return str(name)


def _json_object(text: str) -> dict[str, Any] | None:
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and value else None


def _check(where: str, value: object) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ArgumentError(f"{where} has the key {key!r}; keys must be strings")
            _check(where, item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(where, item)
    elif value is not None and not isinstance(value, (str, bool, int, float, dt.date, dt.time)):
        raise ArgumentError(f"{where} must have a text, a number or a nested value, not {type(value).__name__}")


def _plain(value: Any) -> Any:
    """`value` with JSON's types only."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, (dt.date, dt.time)) else value
