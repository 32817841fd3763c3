"""POST /v1/embed and /v2/embed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commandr_gguf.errors import ArgumentError, ContextFullError, integer
from commandr_gguf.server.cohere.forms import new_id
from commandr_gguf.server.embeddings import embed, tokens_of
from commandr_gguf.server.schema import brief, choice, field, strings
from commandr_gguf.server.state import State

_MAX_TEXTS = 96
"""As many as Cohere's interface takes."""

_Row = npt.NDArray[np.float32]


def _bits(row: _Row) -> npt.NDArray[np.uint8]:
    """One bit for each value, 1 where it is positive, eight to a byte."""
    return np.packbits(row > 0)


_TYPES: dict[str, Callable[[_Row], Any]] = {
    "float": lambda row: row.tolist(),
    "base64": lambda row: base64.b64encode(row.astype("<f4").tobytes()).decode(),
    "ubinary": lambda row: _bits(row).tolist(),
    "binary": lambda row: (_bits(row).astype(np.int16) - 128).tolist(),
}


async def embed_v2(request: Request, state: State) -> Response:
    """Embeddings of texts: means of the model's last hidden states, of length 1."""
    body = await state.body(request)
    return await _answer(request, state, body, strings(body, "embedding_types") or ["float"], "2")


async def embed_v1(request: Request, state: State) -> Response:
    """The same as a plain list of rows, unless types are named."""
    body = await state.body(request)
    return await _answer(request, state, body, strings(body, "embedding_types"), "1")


async def _answer(
    request: Request, state: State, body: Mapping[str, Any], types: Sequence[str], version: str
) -> Response:
    texts = _texts(body)
    unknown = next((name for name in types if name not in _TYPES), None)
    if unknown is not None:
        raise ArgumentError(f"embedding_types may be {', '.join(_TYPES)}, not {brief(unknown)}")
    n_embd = state.model.model.hparams.n_embd
    if field(body, "output_dimension", int, n_embd) != n_embd:
        raise ArgumentError(f"output_dimension must be {n_embd}: this model's embeddings cannot be shortened")
    cut = _cutter(state, body)
    whole = await tokens_of(state, texts, request.receive)
    tokens = [cut(number, found) for number, found in enumerate(whole)]
    rows = await embed(state, tokens, request.receive)
    n_tokens = sum(map(len, tokens))
    request.state.log.update({"prompt_tokens": n_tokens, "texts": len(texts)})
    by_type = {name: [_TYPES[name](row) for row in rows] for name in dict.fromkeys(types)}
    return JSONResponse(
        {
            "id": new_id(),
            "response_type": "embeddings_by_type" if types else "embeddings_floats",
            "embeddings": by_type or rows.tolist(),
            "texts": texts,
            "meta": {"api_version": {"version": version}, "billed_units": {"input_tokens": n_tokens}},
        }
    )


def _texts(body: Mapping[str, Any]) -> list[str]:
    if body.get("images"):
        raise ArgumentError("images cannot be embedded: this model reads text only")
    texts = strings(body, "texts")
    for number, one in enumerate(field(body, "inputs", list, []) or []):
        parts = one.get("content") if isinstance(one, Mapping) else None
        found = [part.get("text") for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
        if not found or not all(isinstance(text, str) for text in found):
            raise ArgumentError(f"inputs[{number}] must have parts of text under 'content'")
        texts = [*texts, "\n".join(map(str, found))]
    if not 0 < len(texts) <= _MAX_TEXTS:
        raise ArgumentError(f"there must be 1 to {_MAX_TEXTS} texts, not {len(texts)}")
    return texts


def _cutter(state: State, body: Mapping[str, Any]) -> Callable[[int, list[int]], list[int]]:
    """Cuts a text's tokens to what is allowed at the end that the request names; texts have numbers."""
    limit = min(integer("max_tokens", field(body, "max_tokens", int, state.model.n_ctx) or 0, 1), state.model.n_ctx)
    truncate = choice(body, "truncate", {name: name for name in ("NONE", "START", "END")}, "END")

    def cut(number: int, tokens: list[int]) -> list[int]:
        over = len(tokens) - limit
        if over <= 0:
            return tokens
        if truncate == "NONE":
            raise ContextFullError(f"text {number} has {len(tokens)} tokens, {over} more than allowed")
        n_head = int(state.model.tokenizer.is_special(tokens[0]))  # the begin token stays
        return tokens[:limit] if truncate == "END" else [*tokens[:n_head], *tokens[n_head + over :]]

    return cut
