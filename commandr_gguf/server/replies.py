"""Parts of replies that several interfaces share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from starlette.requests import Request

from commandr_gguf.chat.visible import Citation, Source
from commandr_gguf.usage import Usage


def citation_in(citation: Citation, document_ids: Collection[str]) -> dict[str, Any]:
    """A citation with its sources.

    Args:
        citation: of the visible text.
        document_ids: of the documents of the request; other sources are results of tools.
    """
    return {
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "sources": [_source(cited, document_ids) for cited in citation.sources],
    }


def log_reply(request: Request, usage: Usage, reason: str) -> None:
    """Tell the log of a reply."""
    request.state.log.update(
        {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "finish_reason": reason,
        }
    )


def _source(cited: Source, document_ids: Collection[str]) -> dict[str, Any]:
    if cited.id in document_ids:
        return {"type": "document", "id": cited.id, "document": {"id": cited.id, **cited.document}}
    return {"type": "tool", "id": cited.id, "tool_output": dict(cited.document)}
