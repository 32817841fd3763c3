"""POST /v1/tokenize and /v1/detokenize."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.server.cohere.forms import API_VERSION_1
from commandr_gguf.server.schema import read_body, required
from commandr_gguf.server.state import State, run


async def tokenize(request: Request, state: State) -> Response:
    """Tokens of a text, in which control tokens stay plain text; there is no begin token."""
    body = await read_body(request, state.settings.max_body_bytes)
    text = required(body, "text", str)
    if not text:
        raise ArgumentError("text is empty")

    def work() -> tuple[list[int], list[str]]:
        tokens = state.model.tokenize(text)
        return tokens, [state.model.detokenize([token]) for token in tokens]

    tokens, token_strings = await run(work)
    return JSONResponse({"tokens": tokens, "token_strings": token_strings, "meta": API_VERSION_1})


async def detokenize(request: Request, state: State) -> Response:
    """The text of tokens."""
    body = await read_body(request, state.settings.max_body_bytes)
    n_tokens = len(state.model.tokenizer)
    tokens = [integer("a token", token, 0, n_tokens - 1) for token in required(body, "tokens", list)]
    text = await run(lambda: state.model.detokenize(tokens))
    return JSONResponse({"text": text, "meta": API_VERSION_1})
