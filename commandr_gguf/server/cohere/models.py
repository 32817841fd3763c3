"""GET /v1/models, for Cohere's clients and for those of interfaces that have the same path; and the check of a key."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.server.errors import NotFoundError
from commandr_gguf.server.schema import brief
from commandr_gguf.server.state import State

_ENDPOINTS = ["chat", "embed"]


async def list_models(request: Request, state: State) -> Response:
    """The one model. The keys `object` and `data` are how OpenAI's clients know a list."""
    endpoint = request.query_params.get("endpoint")
    shown = [_model(state)] if endpoint is None or endpoint in _ENDPOINTS else []
    return JSONResponse({"models": shown, "object": "list", "data": shown})


async def show_model(request: Request, state: State) -> Response:
    """The model, when it is asked for by its name."""
    name = request.path_params["name"]
    if name != state.model_name:
        raise NotFoundError(f"there is no model {brief(name)}; this server has {state.model_name!r}")
    return JSONResponse(_model(state))


async def check_api_key(_request: Request, _state: State) -> Response:
    """Whoever gets here has the key."""
    return JSONResponse({"valid": True})


def _model(state: State) -> dict[str, Any]:
    return {
        "name": state.model_name,
        "endpoints": _ENDPOINTS,
        "default_endpoints": [],
        "finetuned": False,
        "is_deprecated": False,
        "context_length": state.model.n_ctx,
        "features": ["tools", "json_mode", "json_schema"],
        "id": state.model_name,
        "object": "model",
        "created": int(state.started),
        "owned_by": "local",
    }
