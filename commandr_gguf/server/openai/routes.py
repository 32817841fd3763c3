"""The paths of OpenAI's interface. `/v1/models` is Cohere's as well, see `server.cohere.models`."""

from __future__ import annotations

from starlette.routing import Route

from commandr_gguf.server.answers import SHAPES, bound
from commandr_gguf.server.openai.chat import chat_completions
from commandr_gguf.server.openai.completions import completions
from commandr_gguf.server.openai.embeddings import embeddings
from commandr_gguf.server.openai.errors import openai_error
from commandr_gguf.server.openai.responses import responses
from commandr_gguf.server.state import State

_FUNCTIONS = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/v1/responses": responses,
    "/v1/embeddings": embeddings,
}
SHAPES.update(dict.fromkeys(_FUNCTIONS, openai_error))


def openai_routes(state: State) -> list[Route]:
    """Those that this server has."""
    return [Route(path, bound(function, state), methods=["POST"]) for path, function in _FUNCTIONS.items()]
