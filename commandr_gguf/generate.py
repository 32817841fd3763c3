"""Generation: from a prompt to text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from commandr_gguf.context_shift import ContextShift
from commandr_gguf.drafting.drafter import Drafter
from commandr_gguf.errors import integer
from commandr_gguf.generation import Generation, Piece
from commandr_gguf.generation_steps import GenerationSteps
from commandr_gguf.prefix_cache import PrefixCache
from commandr_gguf.sampling import SamplingParams
from commandr_gguf.session import Progress, Session, Tokens
from commandr_gguf.stream import GenerationStream
from commandr_gguf.token_constraint import TokenConstraint
from commandr_gguf.tokenizer import Tokenizer
from commandr_gguf.usage import FinishReason, Timings, Usage

__all__ = ["FinishReason", "Generation", "GenerationStream", "Piece", "Timings", "Usage", "generate"]


@overload
def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: str | Tokens,
    *,
    max_tokens: int | None = ...,
    sampling: SamplingParams | None = ...,
    stop: str | Sequence[str] = ...,
    top_logprobs: int | None = ...,
    constraint: TokenConstraint | None = ...,
    drafter: Drafter | None = ...,
    seq_id: int = ...,
    cache: PrefixCache | None = ...,
    stable: int | None = ...,
    keep_prompt: bool = ...,
    skip_special: bool = ...,
    shift: ContextShift | None = ...,
    progress: Progress | None = ...,
    stream: Literal[False] = ...,
) -> Generation: ...
@overload
def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: str | Tokens,
    *,
    max_tokens: int | None = ...,
    sampling: SamplingParams | None = ...,
    stop: str | Sequence[str] = ...,
    top_logprobs: int | None = ...,
    constraint: TokenConstraint | None = ...,
    drafter: Drafter | None = ...,
    seq_id: int = ...,
    cache: PrefixCache | None = ...,
    stable: int | None = ...,
    keep_prompt: bool = ...,
    skip_special: bool = ...,
    shift: ContextShift | None = ...,
    progress: Progress | None = ...,
    stream: Literal[True],
) -> GenerationStream: ...
def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: str | Tokens,
    *,
    max_tokens: int | None = None,
    sampling: SamplingParams | None = None,
    stop: str | Sequence[str] = (),
    top_logprobs: int | None = None,
    constraint: TokenConstraint | None = None,
    drafter: Drafter | None = None,
    seq_id: int = 0,
    cache: PrefixCache | None = None,
    stable: int | None = None,
    keep_prompt: bool = False,
    skip_special: bool = True,
    shift: ContextShift | None = None,
    progress: Progress | None = None,
    stream: bool = False,
) -> Generation | GenerationStream:
    """Continue a prompt until an end token, a stop string, `max_tokens` or the end of the context.

    Args:
        session: computes; what it holds of the prompt already is not computed again.
        tokenizer: of the session's model.
        prompt: token ids, or plain text, which gets the begin token and whose control tokens stay plain text.
        max_tokens: 0 only evaluates the prompt; None has no limit but the context.
        sampling: None takes `SamplingParams()`.
        stop: strings that end the reply and are not part of it.
        top_logprobs: log-probabilities of each token and of this many most likely ones; None = none.
        constraint: says which tokens may follow; one object serves one generation. What it forces is not sampled,
            unless log-probabilities are wanted.
        drafter: guesses what follows, so that one evaluation can give several tokens; one object serves one
            generation. The reply is the same without it, but for rounding: see `Session.next_tokens`.
        seq_id: the session's sequence to use.
        cache: chooses the sequence instead.
        stable: for the cache, see `PrefixCache.acquire`.
        keep_prompt: for the cache, see `whole` there.
        skip_special: leave control tokens out of the text.
        shift: what to drop when the context is full, be it by the prompt or by the reply, and go on; None ends there.
        progress: called during each evaluation, see `Session.eval`.
        stream: return a `GenerationStream` to iterate over instead of the finished reply.

    Raises:
        ArgumentError: the prompt is empty or an argument is outside its range.
        ContextFullError: the prompt does not fit in the context, or with `shift` what is kept of it.
    """
    steps = GenerationSteps(
        session,
        tokenizer,
        tokenizer.encode(prompt, add_special=True) if isinstance(prompt, str) else prompt,
        max_tokens=None if max_tokens is None else integer("max_tokens", max_tokens, 0),
        sampling=sampling or SamplingParams(),
        stop=stop,
        top_logprobs=None if top_logprobs is None else integer("top_logprobs", top_logprobs, 0),
        constraint=constraint,
        drafter=drafter,
        seq_id=seq_id,
        cache=cache,
        stable=stable,
        keep_prompt=keep_prompt,
        skip_special=skip_special,
        shift=shift,
    )
    pieces = GenerationStream(steps, progress)
    return pieces if stream else pieces.finish()
