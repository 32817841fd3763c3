"""The engine: one thread that evaluates many requests in common graphs."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import CancelledError, CommandRError, ContextFullError, integer
from commandr_gguf.eval_items import Want
from commandr_gguf.generation import Piece
from commandr_gguf.server.budget import PrefillBudget
from commandr_gguf.server.counts import Counts
from commandr_gguf.server.errors import QueueFullError, StoppingError, TimeUpError
from commandr_gguf.server.jobs import Failure, Job
from commandr_gguf.server.side_work import SideWork

logger = logging.getLogger("commandr_gguf.server.engine")

_SHARED = 64
"""Tokens that are worth waiting for until another request has computed them."""
_LEAST_PART = 16
"""Tokens of a prompt that are worth an evaluation."""
_T = TypeVar("_T")


class Engine:
    """Computes what is submitted, all requests together, one step after the other.

    A step evaluates the next token of each reply that is being written, and of prompts as many tokens as do not hold
    those replies up (`PrefillBudget`), the prompts taking turns. Requests join and leave between steps; a request that
    was cancelled is gone after the step that runs. A request whose prompt begins like one that is being evaluated waits
    for that and takes the cells over. When the cells of the KV cache run out, the youngest request gives its own up and
    is taken up again when there is room, to go on as if nothing had been.

    A reply that is written alone uses drafts; beside others it does not, since rows of drafts then cost what rows of
    others would.

    Args:
        model: from now on used by the engine's thread alone, but for prompts and tokens.
        n_parallel: requests that are computed at once; at most the sequences of the model's session.
        n_queue: requests that may wait beside those.
        n_prefill: most tokens of prompts in one step.
    """

    def __init__(self, model: CommandR, *, n_parallel: int = 4, n_queue: int = 64, n_prefill: int = 512) -> None:
        self.model = model
        self.n_parallel = integer("n_parallel", n_parallel, 1, model.cache.n_sequences)
        self.n_queue = integer("n_queue", n_queue, 0)
        self.counts = Counts(kv_cells=model.session.n_ctx)
        self._n_batch = integer("n_prefill", n_prefill, 1)
        self._budget = PrefillBudget(n_prefill)
        self._waiting: deque[Job] = deque()
        self._active: list[Job] = []
        """In the order in which their prompts take turns."""
        self._side_work = SideWork()
        self._is_blocked = False
        """The first in the queue waits for cells that those at work hold."""
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="commandr-engine", daemon=True)

    def start(self) -> Engine:
        """Begin to compute; returns the engine."""
        self._thread.start()
        return self

    # ---- from any thread

    @property
    def is_running(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, job: Job) -> None:
        """Put a request into the queue. From any thread.

        Raises:
            QueueFullError: as many wait as may.
            StoppingError: the engine takes no more.
            ContextFullError: the prompt is longer than the context.
        """
        n_prompt = job.steps.result.usage.prompt_tokens
        if n_prompt > self.model.n_ctx:
            raise ContextFullError(f"the prompt has {n_prompt} tokens, and the context {self.model.n_ctx}")
        with self._wake:
            if self._stopping:
                raise StoppingError("the server is stopping")
            n_waiting = len(self._waiting)
            if n_waiting >= self.n_queue + self.n_parallel - len(self._active):
                self.counts.refused += 1
                raise QueueFullError(
                    f"{n_waiting} requests wait already", self.counts.retry_after(n_waiting, self.n_parallel)
                )
            self._waiting.append(job)
            self.counts.waiting = len(self._waiting)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """End a request with the step that runs. From any thread; does not wait."""
        job.cancel()
        with self._wake:
            self._wake.notify()

    def work(self, work: Generator[None, None, _T]) -> Future[_T]:
        """Run a generator on the engine's thread, from one `yield` to the next beside each step. From any thread.

        Cancelling the future ends it at the next `yield`.

        Raises:
            QueueFullError: as much waits as may.
            StoppingError: the engine takes no more.
        """
        with self._wake:
            if self._stopping:
                raise StoppingError("the server is stopping")
            n_waiting = len(self._side_work)
            if n_waiting > self.n_queue:
                self.counts.refused += 1
                raise QueueFullError(
                    f"{n_waiting} requests wait already", self.counts.retry_after(n_waiting, self.n_parallel)
                )
            future = self._side_work.add(work)
            self._wake.notify()
        return future

    def close(self, grace: float = 0.0) -> None:
        """Take no more requests, go on with those at hand for at most `grace` seconds, cancel the rest, and stop."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(grace)
        with self._wake:
            for job in [*self._waiting, *self._active]:
                job.cancel()
            self._side_work.cancel()
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(1.0)
        if self._thread.is_alive():  # a long evaluation is stopped as well
            self.model.session.cancel()
            self._thread.join()
            self.model.session.cancel(False)

    # ---- the engine's thread

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._waiting or self._active or self._side_work):
                    if self._stopping:
                        return
                    self._wake.wait()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  # a defect of ours must not leave clients without an answer
                self._fail_all(error)

    def _step(self) -> None:
        now = time.monotonic()
        with self._wake:
            jobs = [*self._waiting, *self._active]
        for job in jobs:
            job.expire(now)
        self._drop_cancelled()
        self._admit()
        self._side_work.step()
        wants = self._room_for(self._collect())
        if wants:
            self._evaluate(wants)
        with self._wake:
            self.counts.waiting, self.counts.active = len(self._waiting), len(self._active)
        self.counts.kv_used = self.counts.kv_cells - self.model.session.n_free

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [job for job in self._waiting if job.steps.cancelled]
            self._waiting = deque(job for job in self._waiting if not job.steps.cancelled)
        for job in gone:
            if job.timed_out and not job.steps.begun:
                self._fail(job, TimeUpError("the request's time was up before it was begun"))
            else:
                self._give(job, job.steps.cut("cancelled"))
        for job in [job for job in self._active if job.steps.cancelled]:
            self._give(job, job.steps.cut("cancelled"))

    # ---- who computes

    def _admit(self) -> None:
        while len(self._active) < self.n_parallel and not self._is_blocked:
            with self._wake:
                job = next((job for job in self._waiting if not self._is_awaited(job)), None)
                if job is None:
                    return
                self._waiting.remove(job)
                self._active.append(job)
            self._begin(job)

    def _is_awaited(self, job: Job) -> bool:
        """Whether another request is just computing what this one would have to compute as well."""
        return any(
            other.is_prompt and job.n_common(other) >= max(other.steps.n_held, 0) + _SHARED for other in self._active
        )

    def _begin(self, job: Job) -> None:
        """Take a sequence for an active job, or put it back when there is no room beside the others."""
        try:
            job.steps.begin()
        except Exception as error:  # noqa: BLE001  # other requests go on
            self._fail(job, error)
            return
        if not job.steps.fits and len(self._active) > 1:
            self._suspend(job)

    def _suspend(self, job: Job) -> None:
        """Let a job give its cells up and be the next that is taken up, when another one has ended."""
        self.counts.suspended += job.steps.begun
        job.steps.suspend()
        self._is_blocked = True
        with self._wake:
            self._active.remove(job)
            self._waiting.appendleft(job)

    def _leave(self, job: Job) -> None:
        """A job has ended."""
        self._is_blocked = False
        with self._wake:
            if job in self._active:
                self._active.remove(job)
        job.close()
        self.counts.seconds += time.monotonic() - job.submitted

    # ---- what is computed

    def _collect(self) -> list[tuple[Job, Want]]:
        """What each reply wants, and of prompts as much as fits the budget."""
        is_alone = len(self._active) == 1 and not self._waiting
        writing = [job for job in self._active if not job.is_prompt]
        reading = [job for job in self._active if job.is_prompt]
        wants: list[tuple[Job, Want]] = []
        for job in writing:
            self._ask(wants, job, drafts=is_alone)
        rest = min(self._budget.tokens(len(writing)), max(self._n_batch - len(writing), 1))
        for job in reading:
            if rest < min(_LEAST_PART, job.steps.n_pending):
                break
            rest -= self._ask(wants, job, n_most=rest)
            if job in self._active:  # those behind it are the next to begin
                self._active = [*(other for other in self._active if other is not job), job]
        return wants

    def _ask(self, wants: list[tuple[Job, Want]], job: Job, *, n_most: int | None = None, drafts: bool = False) -> int:
        """Add what a job wants; returns how many tokens that is. It may have ended instead, or it fails."""
        try:
            want = job.steps.want(n_most=n_most, drafts=drafts)
        except Exception as error:  # noqa: BLE001  # other requests go on
            self._fail(job, error)
            return 0
        if isinstance(want, Piece):
            self._give(job, want)
            return 0
        wants.append((job, want))
        return len(want.tokens) - job.steps.n_held

    def _room_for(self, wants: list[tuple[Job, Want]]) -> list[tuple[Job, Want]]:
        """Those for which there are cells, the youngest giving theirs up where there are not."""
        while len(wants) > 1:
            n_new = sum(len(want.tokens) - job.steps.n_held for job, want in wants)
            if self.model.cache.make_room(n_new):
                break
            youngest = max((job for job, _ in wants), key=lambda job: job.number)
            self._suspend(youngest)
            wants = [(job, want) for job, want in wants if job is not youngest]
        return wants

    def _evaluate(self, wants: list[tuple[Job, Want]]) -> None:
        started = time.perf_counter()
        try:
            results = self._advance(wants)
        except CommandRError as error:
            for job, _ in wants:
                self._end_by(job, error)
            return
        seconds = time.perf_counter() - started
        self._count(wants, seconds)
        for (job, _), found in zip(wants, results, strict=True):
            if isinstance(found, CommandRError):
                self._fail(job, found)
                continue
            usage, was_begun = job.steps.result.usage, job.steps.begun
            n_drafted, n_accepted = usage.drafted_tokens, usage.accepted_tokens
            piece = job.steps.take(found, seconds)
            self.counts.reply_tokens += sum(step.token is not None for step in found)
            self.counts.drafted_tokens += usage.drafted_tokens - n_drafted
            self.counts.accepted_tokens += usage.accepted_tokens - n_accepted
            if job.steps.begun and not was_begun:
                self.counts.cached_tokens += usage.cached_tokens
            if piece is not None:
                self._give(job, piece)

    def _advance(self, wants: list[tuple[Job, Want]]) -> list[Any]:
        """Evaluate; without drafts and with all cells that others can give up, where it does not fit."""
        session, cache = self.model.session, self.model.cache
        try:
            return session.advance([want for _, want in wants])
        except ContextFullError:
            n_new = sum(len(want.tokens) - job.steps.n_held for job, want in wants)
            if not any(want.draft for _, want in wants) and not cache.make_room(n_new):
                raise
        plain = [job.steps.want(drafts=False) if want.draft else want for job, want in wants]
        return session.advance([want for want in plain if isinstance(want, Want)])

    def _count(self, wants: list[tuple[Job, Want]], seconds: float) -> None:
        prompts = [(job, want) for job, want in wants if job.is_prompt]
        n_prompt = sum(len(want.tokens) - job.steps.n_held for job, want in prompts)
        n_writing = len(wants) - len(prompts)
        self._budget.add(n_writing, n_prompt, seconds)
        self.counts.add_step(n_prompt, n_writing, seconds)

    # ---- what comes of it

    def _give(self, job: Job, piece: Piece) -> None:
        """Hand a piece to who waits for it, and begin the second generation where the reply needs one."""
        steps = job.steps
        try:
            output = job.read(piece)
        except Exception as error:  # noqa: BLE001  # other requests go on
            self._fail(job, error)
            return
        if output.ended:
            reason = "timeout" if job.timed_out else str(piece.finish_reason or "stop")
            self.counts.add_end(reason)
            self._leave(job)
        job.deliver(output)
        if not output.ended and job.steps is not steps:
            self._is_blocked = False
            if job in self._active:
                self._begin(job)

    def _end_by(self, job: Job, error: CommandRError) -> None:
        """End a job whose evaluation failed: a reply that has begun ends where the context or the server does."""
        if isinstance(error, CancelledError):
            self._give(job, job.steps.cut("cancelled"))
        elif isinstance(error, ContextFullError) and job.steps.begun:
            self._give(job, job.steps.cut("length"))
        else:
            self._fail(job, error)

    def _fail(self, job: Job, error: Exception) -> None:
        """End a job with an error. What is no error of this package is a defect, which the log describes."""
        if not isinstance(error, CommandRError):
            logger.error("a request failed", exc_info=error)
            error = CommandRError("the server failed; its log says why")
        self.counts.add_end("timeout" if isinstance(error, TimeUpError) else "error")
        self._leave(job)
        job.deliver(Failure(error))

    def _fail_all(self, error: Exception) -> None:
        with self._wake:
            jobs = [*self._waiting, *self._active]
            self._waiting.clear()
        for job in jobs:
            self._fail(job, error)
        self._side_work.fail(error)
