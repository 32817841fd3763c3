"""The application: routes and what stands in front of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commandr_gguf.server.answers import answering, error_response
from commandr_gguf.server.cohere.routes import cohere_routes
from commandr_gguf.server.engine import Engine
from commandr_gguf.server.errors import RequestError
from commandr_gguf.server.guards import BodyTimer, HostCheck, KeyCheck, RequestLog
from commandr_gguf.server.metrics import CONTENT_TYPE_LATEST, Metrics
from commandr_gguf.server.openai.routes import openai_routes
from commandr_gguf.server.page import page_routes
from commandr_gguf.server.settings import Settings
from commandr_gguf.server.state import State


def make_app(engine: Engine, settings: Settings) -> Starlette:
    """The application of an engine that computes. When it is shut down, the engine is closed."""
    state = State(engine, settings)
    metrics = Metrics(engine.counts)

    async def health(_request: Request) -> Response:
        return JSONResponse(
            {"status": "ok"} if engine.is_running else {"status": "stopping"}, 200 if engine.is_running else 503
        )

    async def show_metrics(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def props(_request: Request) -> Response:
        return JSONResponse(_props(state))

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  # it is registered for that
        problem = RequestError(f"{request.method} {request.url.path}: {error.detail.lower()}")
        problem.status = error.status_code
        answer = error_response(request.url.path, problem)
        answer.headers.update(error.headers or {})
        return answer

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        engine.close()

    guards = [Middleware(RequestLog)]
    if settings.cors_origins:
        guards.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # the SDKs' clients for pages say much about themselves
                expose_headers=["X-Request-ID", "Retry-After"],
            )
        )
    guards.append(Middleware(KeyCheck, api_key=settings.api_key) if settings.api_key else Middleware(HostCheck))
    guards.append(Middleware(BodyTimer, seconds=settings.body_timeout))
    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", answering(show_metrics)),
            Route("/props", answering(props)),
            *cohere_routes(state),
            *openai_routes(state),
            *page_routes(state),
        ],
        middleware=guards,
        exception_handlers={HTTPException: refuse},
        lifespan=lifespan,
    )


def _props(state: State) -> dict[str, object]:
    model, settings = state.model, state.settings
    sampling = {name: value for name, value in state.sampling({}).items() if name not in {"logit_bias", "seed"}}
    return {
        "model": state.model_name,
        "architecture": model.model.hparams.architecture,
        "n_ctx": model.n_ctx,
        "n_ctx_train": model.model.hparams.n_ctx_train,
        "kv_bytes": state.engine.counts.kv_bytes,
        "kv_bytes_limit": state.engine.counts.kv_bytes_limit,
        "n_vocab": model.model.hparams.n_vocab,
        "n_embd": model.model.hparams.n_embd,
        "parallel": state.engine.n_parallel,
        "queue": state.engine.n_queue,
        "max_tokens": settings.max_tokens,
        "max_documents": settings.max_documents,
        "max_body_bytes": settings.max_body_bytes,
        "timeout": settings.timeout,
        "sampling": sampling,
        "started": int(state.started),
    }
