"""Log-probabilities of tokens in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from commandr_gguf.chat.reply import TokenLogprobs
from commandr_gguf.tokenizer import Tokenizer

_LEAST = -9999.0
"""What OpenAI writes for a token that cannot be."""


def token_logprobs(items: Sequence[TokenLogprobs], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Of each token that the model wrote: its text, its bytes, and the same of the most likely ones."""
    return [
        {**_token(item.token, item.logprob, tokenizer), "top_logprobs": [_token(*top, tokenizer) for top in item.top]}
        for item in items
    ]


def text_logprobs(items: Sequence[TokenLogprobs], tokenizer: Tokenizer, offset: int) -> dict[str, Any]:
    """The form of /v1/completions, list by list; `offset`: characters of the reply before the first token."""
    texts = [_text(item.token, tokenizer) for item in items]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [max(item.logprob, _LEAST) for item in items],
        "top_logprobs": [
            {_text(token, tokenizer): max(value, _LEAST) for token, value in reversed(item.top)} for item in items
        ],
        "text_offset": offsets,
    }


def _token(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    spelled = tokenizer.token_bytes(token)
    return {"token": spelled.decode("utf-8", "replace"), "logprob": max(logprob, _LEAST), "bytes": list(spelled)}


def _text(token: int, tokenizer: Tokenizer) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")
