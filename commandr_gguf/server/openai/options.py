"""What requests of OpenAI's interfaces have in common: sampling, limits, and what this server does not have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.server.asked import MAX_STOPS
from commandr_gguf.server.schema import brief, field, strings
from commandr_gguf.server.state import State

MAX_TOP_LOGPROBS = 20


def sampling_options(body: Mapping[str, Any], state: State) -> dict[str, Any]:
    """How tokens are chosen: OpenAI's fields, and those that local servers have beside them.

    Raises:
        ArgumentError: one is of the wrong kind.
    """
    asked = {
        "temperature": field(body, "temperature", float),
        "top_p": field(body, "top_p", float),
        "frequency_penalty": field(body, "frequency_penalty", float),
        "presence_penalty": field(body, "presence_penalty", float),
        "seed": _seed(body),
        "logit_bias": _biases(field(body, "logit_bias", dict)),
        "top_k": field(body, "top_k", int),
        "min_p": field(body, "min_p", float),
        "typical_p": field(body, "typical_p", float),
        "repeat_penalty": field(body, "repeat_penalty", float),
    }
    return state.sampling(asked)


def stop_strings(body: Mapping[str, Any]) -> list[str]:
    """One string or a list. Raises ArgumentError for something else."""
    stop = body.get("stop")
    return [stop] if isinstance(stop, str) else strings(body, "stop", MAX_STOPS)


def n_choices(body: Mapping[str, Any], state: State, n_prompts: int = 1) -> int:
    """How many replies each prompt is to have. Raises ArgumentError for more than can wait at once."""
    n = integer("n", field(body, "n", int, 1) or 0, 1)
    n_most = state.engine.n_parallel + state.engine.n_queue
    if n * n_prompts > n_most:
        raise ArgumentError(f"n asks for {n * n_prompts} replies, and this server takes {n_most} at once")
    return n


def of_choice(options: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The options of one of several replies to a prompt: with a seed they differ, and each is the same every time."""
    seed = options.get("seed")
    return {**options, "seed": None if seed is None else seed + number}


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream is to end with numbers of tokens."""
    return bool(field(field(body, "stream_options", dict, {}) or {}, "include_usage", bool, False))


def refuse(body: Mapping[str, Any], *names: str) -> None:
    """Raises ArgumentError where a field is set that a reply would depend on and that this server does not have."""
    for name in names:
        if body.get(name):
            raise ArgumentError(f"{name} is not supported by this server")


def _seed(body: Mapping[str, Any]) -> int | None:
    """In OpenAI's interface a seed may be negative."""
    seed = field(body, "seed", int)
    return seed if seed is None or seed >= 0 else integer("seed", seed) + 2**63


def _biases(biases: Mapping[str, Any] | None) -> dict[int, float] | None:
    if biases is None:
        return None
    wrong = next((token for token in biases if not (token.isascii() and token.isdecimal() and len(token) < 10)), None)
    if wrong is not None:
        raise ArgumentError(f"logit_bias must map token ids to numbers, not {brief(wrong)}")
    return {int(token): field(biases, token, float, 0.0) or 0.0 for token in biases}
