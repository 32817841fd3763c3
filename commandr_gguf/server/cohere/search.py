"""`search_queries_only` of /v1/chat: what the model would search for before it answers."""

from __future__ import annotations

import dataclasses
from typing import Any

from starlette.requests import Request

from commandr_gguf.chat.events import Text
from commandr_gguf.chat.reply import Reply
from commandr_gguf.server.asked import Asked
from commandr_gguf.server.errors import StoppingError, TimeUpError
from commandr_gguf.server.replies import log_reply
from commandr_gguf.server.state import State
from commandr_gguf.server.stream import watching

# The tool by whose name the models were published; a call of it says what to search for.
_SEARCH: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "internet_search",
        "description": "Searches the internet for documents.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "What to search for.", "maxLength": 256}},
            "required": ["query"],
        },
    },
}
_NOT_FOR_SEARCH = {"documents", "grammar", "require_tool", "multi_step"}


async def search_queries(asked: Asked, request: Request, state: State) -> tuple[list[str], Reply]:
    """The queries of the model that is shown a search as its only tool, and its reply; none where it wants no search.

    Raises:
        TimeUpError: its time was up.
        StoppingError: it was cancelled, since the server is stopping.
    """
    options = {name: value for name, value in asked.options.items() if name not in _NOT_FOR_SEARCH}
    shown = dataclasses.replace(asked, options={**options, "tools": [_SEARCH]})
    stream, ticket = await state.ask(lambda: shown.begin(state.model))
    wants_none = False
    async with ticket, watching(request.receive, ticket.cancel):
        async for output in ticket:
            if output.timed_out:
                raise TimeUpError("the request's time was up before the model had written its queries")
            if not wants_none and any(isinstance(event, Text) for event in output.events):
                wants_none = True  # it answers
                ticket.cancel()
    reply: Reply = stream.reply
    if reply.finish_reason == "cancelled" and not wants_none:
        raise StoppingError("the server is stopping")
    queries = [] if wants_none else [str(call.parameters.get("query", "")) for call in reply.tool_calls]
    log_reply(request, reply.usage, "COMPLETE")
    return queries, reply
