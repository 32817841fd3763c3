"""POST /v1/embeddings."""

from __future__ import annotations

import base64

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.errors import ArgumentError
from commandr_gguf.server.embeddings import embed, tokens_of
from commandr_gguf.server.openai.prompts import prompts_in
from commandr_gguf.server.schema import choice, field
from commandr_gguf.server.state import State

_MAX_INPUTS = 2048
"""As many as OpenAI's interface takes."""


async def embeddings(request: Request, state: State) -> Response:
    """Embeddings of texts: means of the model's last hidden states, of length 1."""
    body = await state.body(request)
    given = prompts_in(body, "input", state)
    if len(given) > _MAX_INPUTS:
        raise ArgumentError(f"input may have {_MAX_INPUTS} texts at most, not {len(given)}")
    as_base64 = choice(body, "encoding_format", {"FLOAT": False, "BASE64": True}, False)
    n_embd = state.model.model.hparams.n_embd
    if field(body, "dimensions", int, n_embd) != n_embd:
        raise ArgumentError(f"dimensions must be {n_embd}: this model's embeddings cannot be shortened")

    texts = [one for one in given if isinstance(one, str)]  # all of them or none
    given_tokens = [one for one in given if not isinstance(one, str)]
    tokens = given_tokens or await tokens_of(state, texts, request.receive)
    rows = await embed(state, tokens, request.receive)
    n_tokens = sum(map(len, tokens))
    request.state.log.update({"prompt_tokens": n_tokens, "texts": len(given)})
    values = [base64.b64encode(row.astype("<f4").tobytes()).decode() if as_base64 else row.tolist() for row in rows]
    return JSONResponse(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": value} for i, value in enumerate(values)],
            "model": state.model_name,
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        }
    )
