"""The page at `/`: its files, and the endpoint that reads documents for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from commandr_gguf.server.answers import answering
from commandr_gguf.server.reading import read_file
from commandr_gguf.server.state import State

STATIC = Path(__file__).with_name("static")
"""The folder of the page's files. They are served as they are."""

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing but the page's own files is loaded, nothing in the page itself is run as a script, and markup cannot be made
# from strings: what a model or a document says stays text even if a script of the page forgot that.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for anew after an update; unchanged files are answered with 304
}


class _Files(StaticFiles):
    """The folder's files with the headers above. What their types are is not left to the machine's settings."""

    def file_response(self, full_path: Any, *arguments: Any, **options: Any) -> Response:
        """See Starlette."""
        answer = super().file_response(full_path, *arguments, **options)
        if isinstance(answer, FileResponse):
            answer.headers["Content-Type"] = f"{_TYPES[Path(full_path).suffix]}; charset=utf-8"
        answer.headers.update(_HEADERS)
        return answer


def page_routes(state: State) -> list[BaseRoute]:
    """The page, its files under `/static`, and `POST /page/documents`."""
    files = _Files(directory=STATIC)

    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    return [
        Route("/", index),
        Mount("/static", files),
        Route("/page/documents", answering(_bound(read_file, state)), methods=["POST"]),
    ]


def _bound(
    function: Callable[[Request, State], Awaitable[JSONResponse]], state: State
) -> Callable[[Request], Awaitable[Response]]:
    async def handler(request: Request) -> Response:
        return await function(request, state)

    return handler
