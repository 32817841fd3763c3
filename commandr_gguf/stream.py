"""A reply as it is computed, piece by piece."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Generator, Iterator, Sequence

from commandr_gguf.drafting.adaptive import ROW_COST, DraftLength
from commandr_gguf.drafting.drafter import Draft, Drafter
from commandr_gguf.errors import CancelledError, ContextFullError
from commandr_gguf.generation import Generation, Piece
from commandr_gguf.prefix_cache import PrefixCache
from commandr_gguf.prefix_slots import Lease
from commandr_gguf.sampling import Logprobs, Sampler, SamplingParams
from commandr_gguf.session import NextToken, Progress, Session, Tokens
from commandr_gguf.stops import StopStrings
from commandr_gguf.token_buffer import token_ids
from commandr_gguf.token_constraint import TokenConstraint
from commandr_gguf.tokenizer import Tokenizer
from commandr_gguf.usage import FinishReason, Usage
from commandr_gguf.verification import n_common, take_forced


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
        constraint: TokenConstraint | None,
        drafter: Drafter | None,
        seq_id: int,
        cache: PrefixCache | None,
        stable: int | None,
        keep_prompt: bool,
        skip_special: bool,
        progress: Progress | None,
    ) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._n_vocab = session.model.hparams.n_vocab
        self._n_ctx = session.n_ctx
        self._history = token_ids(prompt)
        self._max_tokens = max_tokens
        self._sampling = sampling
        self._stops = StopStrings(stop)
        self._top_logprobs = top_logprobs
        self._constraint = constraint
        self._drafter = drafter
        self._draft_length = DraftLength(ROW_COST[session.computed_by])
        self._n_pending = 0
        """Tokens that the next evaluation computes in any case; 0 before the first."""
        self._seq_id = seq_id
        self._cache = cache
        self._stable = stable
        self._keep_prompt = keep_prompt
        self._lease: Lease | None = None
        self._progress = progress
        self._cancelled = threading.Event()
        self._detokenizer = tokenizer.decoder(skip_special, after=self._history[-1] if self._history else None)
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
        """Compute no more. The finish reason of an unfinished reply becomes "cancelled".

        Where another thread computes it, that thread ends it; this one does not wait.
        """
        self._cancelled.set()
        try:
            self._pieces.close()
        except ValueError:  # the generator runs in another thread
            return
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
            begun = self._acquire()
            while reason is None:
                text, reason = ("", "cancelled") if self._cancelled.is_set() or not begun else self._step(sampler)
                if reason is not None and self._stops.found is None:
                    text += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
                    reason = "stop" if self._stops.found is not None else reason
                if text or reason:
                    yield self._piece(text, reason)
        finally:
            if self._lease is not None:
                self._lease.release()
            sampler.close()

    def _acquire(self) -> bool:
        """Take the sequence that shares most with the prompt; returns whether nobody cancelled that."""
        if self._cache is not None:
            room = self._n_ctx - len(self._history)
            reserve = 0 if self._max_tokens is None else max(0, min(self._max_tokens, room))
            try:
                self._lease = self._cache.acquire(
                    self._history,
                    stable=self._stable,
                    whole=self._keep_prompt,
                    reserve=reserve,
                    progress=self._go_on,
                )
            except CancelledError:
                return False
            self._seq_id = self._lease.seq_id
            self.result.usage.cached_tokens = self._lease.held_tokens
        return True

    def _step(self, sampler: Sampler) -> tuple[str, FinishReason | None]:
        """Compute some tokens: the text that they complete and why the reply is over, if it is."""
        if self._max_tokens == 0:
            return self._prefill()
        first = self._n_pending == 0
        text = ""
        fits = len(self._history) <= self._n_ctx  # if not, the evaluation says so best
        if first and fits and self._constraint is not None and self._top_logprobs is None:
            forced = take_forced(self._constraint, self._tokenizer.end_of_generation)
            text, reason = self._take([NextToken(token, None, 0) for token in forced])
            if reason is not None:
                return text, reason
        started = time.perf_counter()
        try:
            draft = None if first else self._draft()
            found, draft = self._evaluate(sampler, draft)
        except CancelledError:
            return text, "cancelled"
        except ContextFullError:
            if first:
                raise
            return text, "length"
        n_before = len(self._history)
        more, reason = self._take(found)
        self._n_pending = len(found)
        if first:
            self._count_prefill(started, found[0].n_reused)
            return text + more, reason
        timings = self.result.timings
        timings.decode_seconds += time.perf_counter() - started
        timings.decode_tokens += len(found)
        timings.decode_evaluations += 1
        if draft is not None:
            n_drafted = len(draft.tokens)
            n_right = n_common(draft.tokens, [step.token for step in found if step.token is not None])
            self._n_pending -= n_right
            self._draft_length.add(draft.source, n_drafted, n_right)
            self.result.usage.drafted_tokens += n_drafted
            self.result.usage.accepted_tokens += min(n_right, len(self._history) - n_before)
        return text + more, reason

    def _prefill(self) -> tuple[str, FinishReason]:
        """Evaluate the prompt and nothing else."""
        started = time.perf_counter()
        try:
            step = self._session.next_token(self._history, None, seq_id=self._seq_id, progress=self._go_on)
        except CancelledError:
            return "", "cancelled"
        self._count_prefill(started, step.n_reused)
        return "", "length"

    def _draft(self) -> Draft | None:
        """A guess for which there is room."""
        if self._drafter is None:
            return None
        room = min(self._session.n_draft_max + 1 - self._n_pending, self._n_ctx - len(self._history))
        if self._max_tokens is not None:
            room = min(room, self._max_tokens - self._n_done - 1)
        limit = functools.partial(self._draft_length.limit, n_most=room, n_pending=self._n_pending)
        draft = self._drafter.draft(self._history, limit, self._not_cancelled) if room > 0 else None
        if draft is None:
            return None
        guess = draft.tokens[:room]
        if self._constraint is not None:
            guess = guess[: self._constraint.count_allowed(guess)]
        return Draft(guess, draft.source) if guess else None

    def _evaluate(
        self, sampler: Sampler, draft: Draft | None, *, again: bool = True
    ) -> tuple[list[NextToken], Draft | None]:
        """The next tokens, and the draft again unless there were no cells for it."""
        try:
            found = self._session.next_tokens(
                self._history,
                [] if draft is None else draft.tokens,
                sampler,
                seq_id=self._seq_id,
                constraint=self._constraint,
                end_tokens=self._tokenizer.end_of_generation,
                top_logprobs=self._top_logprobs,
                progress=self._go_on,
            )
        except ContextFullError:
            if draft is not None:
                return self._evaluate(sampler, None)
            # Other conversations may hold cells that this one needs.
            if not again or self._cache is None or not self._cache.make_room(max(self._n_pending, 1)):
                raise
            return self._evaluate(sampler, None, again=False)
        return found, draft

    def _take(self, found: Sequence[NextToken]) -> tuple[str, FinishReason | None]:
        """Make tokens part of the reply until it is over: the text that they complete and why it is over, if it is."""
        text = ""
        for step in found:
            if step.token is None or step.token in self._tokenizer.end_of_generation:
                return text, "stop"
            self._history.append(step.token)
            self._tokens.append(step.token)
            if step.logprobs is not None:
                self._logprobs.append(step.logprobs)
            text += self._stops.push(self._detokenizer.push(step.token))
            if self._stops.found is not None:
                return text, "stop"
            if self._n_done == self._max_tokens or len(self._history) > self._n_ctx:
                return text, "length"
        return text, "stop" if self._constraint is not None and self._constraint.done else None

    @property
    def _n_done(self) -> int:
        return len(self._history) - self.result.usage.prompt_tokens

    def _not_cancelled(self, *_: int) -> bool:
        return not self._cancelled.is_set()

    def _go_on(self, n_done: int, n_total: int) -> object:
        if self._cancelled.is_set():
            return False
        progress = self._progress or self._session.progress
        return None if progress is None else progress(n_done, n_total)

    def _count_prefill(self, started: float, n_reused: int) -> None:
        timings, usage = self.result.timings, self.result.usage
        if self._lease is None:
            usage.cached_tokens = min(n_reused, usage.prompt_tokens)
        else:
            timings.prefill_seconds += self._lease.seconds
        timings.prefill_seconds += time.perf_counter() - started
        timings.prefill_tokens = usage.prompt_tokens - usage.cached_tokens

    def _piece(self, text: str, reason: FinishReason | None) -> Piece:
        piece = Piece(text, self._tokens, self._logprobs, reason)
        self._tokens, self._logprobs = [], []
        self.result.text += piece.text
        self.result.tokens += piece.tokens
        self.result.logprobs += piece.logprobs
        self.result.usage.completion_tokens = len(self.result.tokens)
        self.result.finish_reason = reason
        return piece
