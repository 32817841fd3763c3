"""POST /v1/tokenize and /v1/detokenize."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.server.cohere.forms import API_VERSION_1
from commandr_gguf.server.schema import required
from commandr_gguf.server.state import State, run, run_parts


async def tokenize(request: Request, state: State) -> Response:
    """Tokens of a text, in which control tokens stay plain text; there is no begin token."""
    body = await state.body(request)
    text = required(body, "text", str)
    if not text:
        raise ArgumentError("text is empty")

    parts = state.model.tokenizer.encode_parts(text)
    spelled = ((token, state.model.detokenize([token])) for part in parts for token in part)
    found = await run_parts(spelled, request.receive)
    tokens, strings = [token for token, _ in found], [spelling for _, spelling in found]
    return JSONResponse({"tokens": tokens, "token_strings": strings, "meta": API_VERSION_1})


async def detokenize(request: Request, state: State) -> Response:
    """The text of tokens."""
    body = await state.body(request)
    n_tokens = len(state.model.tokenizer)
    tokens = [integer("a token", token, 0, n_tokens - 1) for token in required(body, "tokens", list)]
    text = await run(lambda: state.model.detokenize(tokens))
    return JSONResponse({"text": text, "meta": API_VERSION_1})
