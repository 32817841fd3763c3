"""Generation: from a prompt to text, piece by piece."""

from __future__ import annotations

import array
import operator
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, overload

from commandr_gguf.errors import ArgumentError, CancelledError, ContextFullError, integer
from commandr_gguf.sampling import Logprobs, Sampler, SamplingParams
from commandr_gguf.session import Progress, Session, Tokens
from commandr_gguf.stops import StopStrings
from commandr_gguf.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "cancelled"]
"""stop: an end token or a stop string; length: max_tokens or the context;
cancelled: cancel(), close() or a progress function."""


@dataclass(frozen=True)
class Piece:
    """A part of a reply."""

    text: str
    """Whole characters; may be empty in the last piece."""
    tokens: list[int]
    """The tokens behind the text, end tokens left out."""
    logprobs: list[Logprobs]
    """One for each token, when asked for."""
    finish_reason: FinishReason | None
    """Set in the last piece."""


@dataclass
class Usage:
    """Numbers of tokens."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, those that the session held already."""
    completion_tokens: int = 0


@dataclass
class Timings:
    """Seconds in the model and the sampler, without the time that the caller takes between pieces."""

    prefill_seconds: float = 0.0
    """The evaluation of the prompt, after which the first token is known."""
    decode_seconds: float = 0.0
    """All evaluations of one token."""
    decode_tokens: int = 0
    """Evaluations of one token."""
    prefill_tokens: int = 0
    """Tokens of the prompt that were computed."""

    @property
    def prefill_tokens_per_second(self) -> float:
        """0 when nothing was computed."""
        return self.prefill_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """0 when nothing was computed."""
        return self.decode_tokens / self.decode_seconds if self.decode_seconds else 0.0


@dataclass
class Generation:
    """A reply."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    """The tokens behind the text, end tokens left out; with a stop string, up to the token that completed it."""
    finish_reason: FinishReason | None = None
    """None while the reply is unfinished."""
    logprobs: list[Logprobs] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)


class GenerationStream(Iterator[Piece]):
    """Pieces of a reply as they are computed; nothing is computed before the first is asked for.

    Leaving the loop early, close() and exceptions leave the session usable. `result` grows with every piece.
    """

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        prompt: Tokens,
        *,
        max_tokens: int | None,
        sampling: SamplingParams,
        stop: str | Sequence[str],
        top_logprobs: int | None,
        seq_id: int,
        progress: Progress | None,
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._n_vocab = session.model.hparams.n_vocab
        self._history = _history(prompt)
        self._max_tokens = max_tokens
        self._sampling = sampling
        self._stops = StopStrings(stop)
        self._top_logprobs = top_logprobs
        self._seq_id = seq_id
        self._progress = progress
        self._cancelled = threading.Event()
        self._detokenizer = tokenizer.decoder()
        self._tokens: list[int] = []
        self._logprobs: list[Logprobs] = []
        self.result = Generation(usage=Usage(prompt_tokens=len(self._history)))
        """The reply so far."""
        self._pieces: Generator[Piece, None, None] = self._run()

    def __next__(self) -> Piece:
        return next(self._pieces)

    def finish(self) -> Generation:
        """Compute the rest and return the whole reply."""
        for _ in self:
            pass
        return self.result

    def cancel(self) -> None:
        """Stop this reply and no other, from any thread and without waiting; it ends as "cancelled"."""
        self._cancelled.set()

    def close(self) -> None:
        """Compute no more. The finish reason of an unfinished reply becomes "cancelled"."""
        self._pieces.close()
        if self.result.finish_reason is None:
            self.result.finish_reason = "cancelled"

    def __enter__(self) -> GenerationStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> Generator[Piece, None, None]:
        sampler = Sampler(self._n_vocab, self._sampling)
        try:
            reason: FinishReason | None = None
            while reason is None:
                text, reason = ("", "cancelled") if self._cancelled.is_set() else self._step(sampler)
                if reason is not None and self._stops.found is None:
                    text += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
                    reason = "stop" if self._stops.found is not None else reason
                if text or reason:
                    yield self._piece(text, reason)
        finally:
            sampler.close()

    def _step(self, sampler: Sampler) -> tuple[str, FinishReason | None]:
        """Compute one token: the text that it completes and why the reply is over, if it is."""
        started = time.perf_counter()
        n_prompt = self.result.usage.prompt_tokens
        first = len(self._history) == n_prompt
        try:
            step = self._session.next_token(
                self._history,
                None if self._max_tokens == 0 else sampler,
                seq_id=self._seq_id,
                top_logprobs=self._top_logprobs,
                progress=self._go_on,
            )
        except CancelledError:
            return "", "cancelled"
        except ContextFullError:
            if first:
                raise
            return "", "length"
        if first:
            self.result.usage.cached_tokens = step.n_reused
        token, logprobs = step.token, step.logprobs
        if token is None:
            self._count(started, first)
            return "", "length"
        over = token in self._tokenizer.end_of_generation
        if not over:
            self._history.append(token)
            self._tokens.append(token)
            if logprobs is not None:
                self._logprobs.append(logprobs)
        self._count(started, first)
        if over:
            return "", "stop"
        text = self._stops.push(self._detokenizer.push(token))
        if self._stops.found is not None:
            return text, "stop"
        n_done = len(self._history) - n_prompt
        return text, "length" if n_done == self._max_tokens else None

    def _go_on(self, n_done: int, n_total: int) -> object:
        if self._cancelled.is_set():
            return False
        progress = self._progress or self._session.progress
        return None if progress is None else progress(n_done, n_total)

    def _count(self, started: float, first: bool) -> None:
        seconds = time.perf_counter() - started
        timings, usage = self.result.timings, self.result.usage
        if first:
            timings.prefill_seconds += seconds
            timings.prefill_tokens = usage.prompt_tokens - usage.cached_tokens
        else:
            timings.decode_seconds += seconds
            timings.decode_tokens += 1

    def _piece(self, text: str, reason: FinishReason | None) -> Piece:
        piece = Piece(text, self._tokens, self._logprobs, reason)
        self._tokens, self._logprobs = [], []
        self.result.text += piece.text
        self.result.tokens += piece.tokens
        self.result.logprobs += piece.logprobs
        self.result.usage.completion_tokens = len(self.result.tokens)
        self.result.finish_reason = reason
        return piece


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
    seq_id: int = ...,
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
    seq_id: int = ...,
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
    seq_id: int = 0,
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
        seq_id: the session's sequence to use.
        progress: called during each evaluation, see `Session.eval`.
        stream: return a `GenerationStream` to iterate over instead of the finished reply.

    Raises:
        ArgumentError: the prompt is empty or an argument is outside its range.
        ContextFullError: the prompt does not fit in the context.
    """
    pieces = GenerationStream(
        session,
        tokenizer,
        tokenizer.encode(prompt, add_special=True) if isinstance(prompt, str) else prompt,
        max_tokens=None if max_tokens is None else integer("max_tokens", max_tokens, 0),
        sampling=sampling or SamplingParams(),
        stop=stop,
        top_logprobs=None if top_logprobs is None else integer("top_logprobs", top_logprobs, 0),
        seq_id=seq_id,
        progress=progress,
    )
    return pieces if stream else pieces.finish()


def _history(tokens: Tokens) -> array.array[int]:
    if isinstance(tokens, (bytes, bytearray, memoryview)):
        raise ArgumentError(f"the prompt must be text or a sequence of token ids, not {type(tokens).__name__}")
    try:
        history = array.array("i", [operator.index(token) for token in tokens])
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"the prompt must be text or a sequence of token ids: {error}") from None
    if not history:
        raise ArgumentError("the prompt is empty")
    return history
