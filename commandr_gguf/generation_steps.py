"""One generation as a sequence of steps, whoever evaluates them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

from commandr_gguf.context_shift import ContextShift
from commandr_gguf.drafting.adaptive import ROW_COST, DraftLength
from commandr_gguf.drafting.drafter import Draft, Drafter, GoOn
from commandr_gguf.eval_items import NextToken, Want
from commandr_gguf.generation import Generation, Piece
from commandr_gguf.prefix_cache import PrefixCache
from commandr_gguf.prefix_slots import Lease
from commandr_gguf.sampling import Logprobs, Sampler, SamplingParams
from commandr_gguf.session import Session, Tokens
from commandr_gguf.stops import StopStrings
from commandr_gguf.token_buffer import token_ids
from commandr_gguf.token_constraint import TokenConstraint
from commandr_gguf.tokenizer import Tokenizer
from commandr_gguf.usage import FinishReason, Usage
from commandr_gguf.verification import n_common, take_forced


class GenerationSteps:
    """Says what is to be evaluated next, takes what came of it, and gives the pieces of the reply.

        steps.begin()
        while not steps.ended:
            want = steps.want()
            piece = want if isinstance(want, Piece) else steps.take(session.advance([want])[0], seconds)
        steps.close()

    It evaluates nothing itself, so that one evaluation may be for many. All but `cancel` is for one thread at a time.
    See `generate` for the arguments.
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
        shift: ContextShift | None = None,
    ) -> None:
        self.session = session
        """Where the wants are to be evaluated."""
        self._tokenizer = tokenizer
        self._n_ctx = session.n_ctx
        self._shift = shift
        self._history = token_ids(prompt)
        while shift is not None and len(self._history) >= self._n_ctx and shift.drop_oldest(self._history):
            pass
        self._n_dropped = 0
        """Of prompt and reply, since the prompt was evaluated."""
        self._prompt: list[int] | None = None
        """Once its tokens were dropped."""
        self._max_tokens = max_tokens
        self._sampler = Sampler(session.model.hparams.n_vocab, sampling)
        self._stops = StopStrings(stop)
        self._top_logprobs = top_logprobs
        self._constraint = constraint
        self._drafter = drafter
        self._draft_length = DraftLength(ROW_COST[session.computed_by])
        self._seq_id = seq_id
        self.cache = cache
        """Where the sequence comes from, if from a cache."""
        self._stable = stable
        self._keep_prompt = keep_prompt
        self._lease: Lease | None = None
        self._n_held = 0
        """Tokens that the sequence holds; of those at the end, the next evaluation computes the others."""
        self._wanted: Want | None = None
        self._draft: Draft | None = None
        self._has_forced = False
        self._cancelled = threading.Event()
        self._detokenizer = tokenizer.decoder(skip_special, after=self._history[-1])
        self._text = ""
        self._tokens: list[int] = []
        self._logprobs: list[Logprobs] = []
        self.begun = False
        """Whether the prompt is evaluated and the first token known."""
        self.result = Generation(usage=Usage(prompt_tokens=len(self._history)))
        """The reply so far."""

    @property
    def ended(self) -> bool:
        """Whether the last piece was given."""
        return self.result.finish_reason is not None

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    @property
    def n_pending(self) -> int:
        """Tokens that are to be evaluated before the next one is known: more than a few while it is a prompt."""
        return len(self._history) - self._n_held

    @property
    def prompt(self) -> list[int]:
        """The tokens of the prompt."""
        return self._history[: self.result.usage.prompt_tokens].tolist() if self._prompt is None else self._prompt

    @property
    def n_held(self) -> int:
        """Tokens that the sequence holds."""
        return self._n_held

    @property
    def fits(self) -> bool:
        """Whether there were cells for the prompt when a sequence was taken for it."""
        return self._lease is None or self._lease.fits

    def cancel(self) -> None:
        """Let the next `want` end the reply as "cancelled". From any thread; does not wait."""
        self._cancelled.set()

    def begin(self) -> None:
        """Take the sequence of the cache that shares most with the prompt."""
        if self.cache is None or self._cancelled.is_set():
            return
        room = self._n_ctx - len(self._history)
        reserve = 0 if self._max_tokens is None else max(0, min(self._max_tokens, room))
        if self.begun:  # what comes after `suspend` is no prompt that others share
            self._lease = self.cache.lend(self._history, stable=0, reserve=0)
        else:
            self._lease = self.cache.lend(self._history, stable=self._stable, whole=self._keep_prompt, reserve=reserve)
            self.result.usage.cached_tokens = self._lease.held_tokens
        self._seq_id = self._lease.seq_id
        self._n_held = self._lease.held_tokens
        self.result.timings.prefill_seconds += self._lease.seconds

    def suspend(self) -> None:
        """Give the sequence back. After another `begin` the reply goes on as if nothing had been."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        self._n_held = 0

    def want(self, *, n_most: int | None = None, drafts: bool = True, go_on: GoOn | None = None) -> Want | Piece:
        """What is to be evaluated, or where that is nothing, the last piece. Asked again, it wants the same.

        Args:
            n_most: tokens of a prompt to evaluate at once. Only where the sequence was taken from a cache.
            drafts: whether there is room for guesses of what follows.
            go_on: for the drafter, see `Drafter.draft`.

        Raises:
            CancelledError: `go_on` stopped the drafter.
        """
        self._draft = None
        if self._cancelled.is_set():
            return self.cut("cancelled")
        end = self._next_mark()
        if end is None:
            reason = self._take_forced()
            if reason is not None:
                return self._last_piece(reason)
            end = len(self._history)
        if n_most is not None:
            end = min(end, self._n_held + max(n_most, 1))
        if end < len(self._history) or self._max_tokens == 0:
            self._wanted = Want(self._history[:end], None, self._seq_id)
            return self._wanted
        if drafts and self.begun:
            self._draft = self._guess(go_on)
        self._wanted = Want(
            self._history,
            self._sampler,
            self._seq_id,
            [] if self._draft is None else self._draft.tokens,
            self._constraint,
            self._tokenizer.end_of_generation,
            self._top_logprobs,
        )
        return self._wanted

    def take(self, found: Sequence[NextToken], seconds: float) -> Piece | None:
        """Go on with what came of the last want: the text that it completes, or the end.

        Args:
            found: as `Session.advance` gives it.
            seconds: that it took.
        """
        assert self._wanted is not None  # noqa: S101  # the contract of this class
        n_evaluated = len(self._wanted.tokens)
        timings = self.result.timings
        if found[0].token is None:
            timings.prefill_seconds += seconds
            self._n_held = n_evaluated
            if n_evaluated < len(self._history):
                return None
            self._count_prompt(found[0].n_reused)
            return self._last_piece("length")
        n_before, n_dropped = self._n_done, self._n_dropped
        reason = self._take(found)
        self._n_held = n_evaluated + self._count_draft(found, n_before)
        if self._shift is not None and self._n_dropped > n_dropped:
            self._n_held = self._shift.n_keep
        if self.begun:
            timings.decode_seconds += seconds
            timings.decode_tokens += len(found)
            timings.decode_evaluations += 1
        else:
            timings.prefill_seconds += seconds
            self._count_prompt(found[0].n_reused)
            self.begun = True
        return self._last_piece(reason) if reason is not None else self._piece(None) if self._text else None

    def cut(self, reason: FinishReason) -> Piece:
        """The last piece of a reply that is not to go on."""
        return self._last_piece(reason)

    def close(self) -> None:
        """Give the sequence back and free the sampler. Calling it again does nothing."""
        self.suspend()
        self._sampler.close()
        if self.result.finish_reason is None:
            self.result.finish_reason = "cancelled"

    def _take_forced(self) -> FinishReason | None:
        """Let the reply begin with what its constraint forces; why it is over, if it is."""
        fits = len(self._history) <= self._n_ctx  # if not, the evaluation says so best
        has = self._has_forced or self._constraint is None or self._top_logprobs is not None or self._max_tokens == 0
        self._has_forced = True
        if has or not fits or self._constraint is None:
            return None
        forced = take_forced(self._constraint, self._tokenizer.end_of_generation)
        return self._take([NextToken(token, None, 0) for token in forced])

    def _next_mark(self) -> int | None:
        """Let the cache keep the prefixes of the prompt that are evaluated; returns the length of the next such one."""
        marks = [] if self._lease is None else self._lease.marks
        while self.cache is not None and self._lease is not None and marks:
            if len(marks[0].tokens) > self._n_held:
                return len(marks[0].tokens)
            self.cache.keep(self._lease)
        return None

    def _guess(self, go_on: GoOn | None) -> Draft | None:
        """A guess for which there is room."""
        if self._drafter is None:
            return None
        room = min(self.session.n_draft_max + 1 - self.n_pending, self._n_ctx - len(self._history))
        if self._max_tokens is not None:
            room = min(room, self._max_tokens - self._n_done - 1)
        limit = functools.partial(self._draft_length.limit, n_most=room, n_pending=self.n_pending)
        draft = self._drafter.draft(self._history, limit, go_on) if room > 0 else None
        if draft is None:
            return None
        guess = draft.tokens[:room]
        if self._constraint is not None:
            guess = guess[: self._constraint.count_allowed(guess)]
        return Draft(guess, draft.source) if guess else None

    def _count_draft(self, found: Sequence[NextToken], n_before: int) -> int:
        """Count what became of the last draft; returns how many of its tokens were right."""
        draft, self._draft = self._draft, None
        if draft is None:
            return 0
        n_right = n_common(draft.tokens, [step.token for step in found if step.token is not None])
        self._draft_length.add(draft.source, len(draft.tokens), n_right)
        self.result.usage.drafted_tokens += len(draft.tokens)
        self.result.usage.accepted_tokens += min(n_right, self._n_done - n_before)
        return n_right

    def _take(self, found: Sequence[NextToken]) -> FinishReason | None:
        """Make tokens part of the reply until it is over; why it is over, if it is."""
        for step in found:
            if step.token is None or step.token in self._tokenizer.end_of_generation:
                return "stop"
            self._history.append(step.token)
            self._tokens.append(step.token)
            if step.logprobs is not None:
                self._logprobs.append(step.logprobs)
            self._text += self._stops.push(self._detokenizer.push(step.token))
            if self._stops.found is not None:
                return "stop"
            if self._n_done == self._max_tokens or (len(self._history) > self._n_ctx and not self._make_space()):
                return "length"
        return "stop" if self._constraint is not None and self._constraint.done else None

    def _make_space(self) -> bool:
        """Drop old tokens, if that is wanted; returns whether some were."""
        if self._shift is None:
            return False
        self._prompt = self.prompt
        n_before = len(self._history)
        if not self._shift.drop_oldest(self._history):
            return False
        self._n_dropped += n_before - len(self._history)
        self._drafter = None  # it counts on a text that only grows
        return True

    @property
    def _n_done(self) -> int:
        return len(self._history) + self._n_dropped - self.result.usage.prompt_tokens

    def _count_prompt(self, n_reused: int) -> None:
        usage = self.result.usage
        if self._lease is None:
            usage.cached_tokens = min(n_reused, usage.prompt_tokens)
        self.result.timings.prefill_tokens = usage.prompt_tokens - usage.cached_tokens

    def _last_piece(self, reason: FinishReason) -> Piece:
        if self._stops.found is None:
            self._text += self._stops.push(self._detokenizer.flush()) + self._stops.flush()
            reason = "stop" if self._stops.found is not None else reason
        return self._piece(reason)

    def _piece(self, reason: FinishReason | None) -> Piece:
        piece = Piece(self._text, self._tokens, self._logprobs, reason)
        self._text, self._tokens, self._logprobs = "", [], []
        self.result.text += piece.text
        self.result.tokens += piece.tokens
        self.result.logprobs += piece.logprobs
        self.result.usage.completion_tokens = len(self.result.tokens)
        self.result.finish_reason = reason
        return piece
