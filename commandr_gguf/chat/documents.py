"""The documents that a grounded answer rests on, as chat templates take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from commandr_gguf.errors import ArgumentError

Document = Mapping[str, str]
"""Keys and values that the model reads in this order, such as title and text."""


def normalize_documents(documents: Iterable[str | Document]) -> list[dict[str, str]]:
    """Check documents and make each a mapping; a plain string becomes `{"text": ...}`.

    Their numbers in citations are their places in this list, counted from 0.

    Raises:
        ArgumentError: a document is neither a string nor a mapping of strings, or it is empty.
    """
    if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Iterable):
        raise ArgumentError("documents must be a list of strings or of mappings such as {'title': ..., 'text': ...}")
    return [_document(number, document) for number, document in enumerate(documents)]


def _document(number: int, document: object) -> dict[str, str]:
    if isinstance(document, str):
        document = {"text": document}
    if not isinstance(document, Mapping):
        raise ArgumentError(f"document {number} must be a string or a mapping, not {type(document).__name__}")
    for key, value in document.items():
        if not isinstance(key, str):
            raise ArgumentError(f"document {number} has the key {key!r}; keys must be strings")
        if not isinstance(value, str):
            raise ArgumentError(f"document {number} must have a string under {key!r}, not {type(value).__name__}")
    if not any(document.values()):
        raise ArgumentError(f"document {number} is empty")
    return dict(document)
