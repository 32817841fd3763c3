"""Texts and tokens, one or several, as /v1/completions and /v1/embeddings take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.server.state import State


def prompts_in(body: Mapping[str, Any], name: str, state: State) -> list[str | list[int]]:
    """A text, a list of texts, the tokens of one, or a list of those, as a list.

    Raises:
        ArgumentError: it is missing, empty or something else, or a token is none of the vocabulary's.
    """
    given = body.get(name)
    if given is None:
        raise ArgumentError(f"{name} is missing")
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(one, str) for one in given):
            return given
        if all(_is_token(one) for one in given):
            return [_tokens(name, given, state)]
        if all(isinstance(one, list) and one and all(map(_is_token, one)) for one in given):
            return [_tokens(name, one, state) for one in given]
    raise ArgumentError(f"{name} must be a string, tokens, or a list of one of them that is not empty")


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tokens(name: str, tokens: list[int], state: State) -> list[int]:
    n_tokens = len(state.model.tokenizer)
    return [integer(f"a token of {name}", token, 0, n_tokens - 1) for token in tokens]
