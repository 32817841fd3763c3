"""The paths of Cohere's interface."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from commandr_gguf.server.answers import Handler, answering
from commandr_gguf.server.cohere.chat_v1 import chat_v1
from commandr_gguf.server.cohere.chat_v2 import chat_v2
from commandr_gguf.server.cohere.embed import embed_v2
from commandr_gguf.server.cohere.models import check_api_key, list_models, show_model
from commandr_gguf.server.cohere.tokens import detokenize, tokenize
from commandr_gguf.server.state import State

_Function = Callable[[Request, State], Awaitable[Response]]


def cohere_routes(state: State) -> list[Route]:
    """Those of both versions."""

    def bound(function: _Function) -> Handler:
        async def handler(request: Request) -> Response:
            return await function(request, state)

        return answering(handler)

    return [
        Route("/v2/chat", bound(chat_v2), methods=["POST"]),
        Route("/v1/chat", bound(chat_v1), methods=["POST"]),
        Route("/v1/tokenize", bound(tokenize), methods=["POST"]),
        Route("/v1/detokenize", bound(detokenize), methods=["POST"]),
        Route("/v2/embed", bound(embed_v2), methods=["POST"]),
        Route("/v1/check-api-key", bound(check_api_key), methods=["POST"]),
        Route("/v1/models", bound(list_models), methods=["GET"]),
        Route("/v1/models/{name}", bound(show_model), methods=["GET"]),
    ]
