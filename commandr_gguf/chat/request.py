"""What a model is asked, checked: messages with documents or tools, and which of the file's templates shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from commandr_gguf.chat.documents import Document, normalize_documents
from commandr_gguf.chat.messages import normalize
from commandr_gguf.chat.prompt import DEFAULT
from commandr_gguf.chat.tools import normalize_tools
from commandr_gguf.errors import ArgumentError

Messages = Iterable[Mapping[str, Any]]
Documents = Iterable[str | Document]
Tools = Iterable[Mapping[str, Any]]
CitationMode = Literal["accurate", "fast"]
"""accurate: the model writes its answer twice, the second time with citations; fast: once, with citations."""


@dataclass(frozen=True)
class Request:
    """A checked request."""

    template: str
    """The name of the chat template: default, tool_use or rag."""
    data: dict[str, Any]
    """The template's variables messages, documents and tools, None where there are none. Every string is untrusted."""
    citation_mode: CitationMode


def make_request(
    messages: Messages,
    documents: Documents | None = None,
    tools: Tools | None = None,
    citation_mode: CitationMode = "accurate",
) -> Request:
    """Check a request and choose its template: rag for documents, be they none, tool_use for tools, else default.

    Raises:
        ArgumentError: an argument is not of its form, or there are both documents and tools.
    """
    if documents is not None and tools is not None:
        raise ArgumentError("documents and tools cannot be given together: each has a prompt of its own")
    if citation_mode not in get_args(CitationMode):
        raise ArgumentError(f"citation_mode must be 'accurate' or 'fast', not {citation_mode!r}")
    return Request(
        template=DEFAULT if documents is None and tools is None else "rag" if tools is None else "tool_use",
        data={
            "messages": normalize(messages),
            "documents": None if documents is None else normalize_documents(documents),
            "tools": None if tools is None else normalize_tools(tools),
        },
        citation_mode=citation_mode,
    )
