"""Which keywords `CommandR.generate` and `CommandR.chat` take, for type checkers; the methods say what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from commandr_gguf.chat.command_a import SafetyMode
from commandr_gguf.chat.request import CitationMode, Documents, Tools
from commandr_gguf.session import Progress


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingParams`."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    seed: int | None
    logit_bias: Mapping[int, float]


class GenerateOptions(SamplingOptions, total=False):
    """The keywords of `CommandR.generate`, but for `stream`."""

    max_tokens: int | None
    stop: str | Sequence[str]
    top_logprobs: int | None
    grammar: str | None
    speculate: bool
    progress: Progress | None


class ChatOptions(GenerateOptions, total=False):
    """The keywords of `CommandR.chat`, but for `stream`."""

    documents: Documents | None
    tools: Tools | None
    citation_mode: CitationMode
    multi_step: bool | None
    safety_mode: SafetyMode | None
    reasoning: bool | None
    constrained: bool
    require_tool: bool
    parallel_calls: bool
