"""The paths of Cohere's interface."""

from __future__ import annotations

from starlette.routing import Route

from commandr_gguf.server.answers import bound
from commandr_gguf.server.cohere.chat_v1 import chat_v1
from commandr_gguf.server.cohere.chat_v2 import chat_v2
from commandr_gguf.server.cohere.embed import embed_v1, embed_v2
from commandr_gguf.server.cohere.models import check_api_key, list_models, show_model
from commandr_gguf.server.cohere.tokens import detokenize, tokenize
from commandr_gguf.server.state import State


def cohere_routes(state: State) -> list[Route]:
    """Those of both versions."""
    return [
        Route("/v2/chat", bound(chat_v2, state), methods=["POST"]),
        Route("/v1/chat", bound(chat_v1, state), methods=["POST"]),
        Route("/v1/tokenize", bound(tokenize, state), methods=["POST"]),
        Route("/v1/detokenize", bound(detokenize, state), methods=["POST"]),
        Route("/v1/embed", bound(embed_v1, state), methods=["POST"]),
        Route("/v2/embed", bound(embed_v2, state), methods=["POST"]),
        Route("/v1/check-api-key", bound(check_api_key, state), methods=["POST"]),
        Route("/v1/models", bound(list_models, state), methods=["GET"]),
        Route("/v1/models/{name}", bound(show_model, state), methods=["GET"]),
    ]
