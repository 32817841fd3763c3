"""The engine: one thread that evaluates many requests in common graphs."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from typing import TypeVar

from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import ContextFullError, integer
from commandr_gguf.server.counts import Counts
from commandr_gguf.server.delivery import Delivery
from commandr_gguf.server.errors import StoppingError, TimeUpError
from commandr_gguf.server.evaluation import Evaluation
from commandr_gguf.server.jobs import Job
from commandr_gguf.server.roster import Roster
from commandr_gguf.server.side_work import SideWork

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
        self._count_cache()
        self._roster = Roster(self.counts, n_parallel, n_queue)
        self._delivery = Delivery(self._roster, self.counts)
        n_prefill = integer("n_prefill", n_prefill, 1)
        self._evaluation = Evaluation(model, self._roster, self._delivery, self.counts, n_prefill)
        self._side_work = SideWork()
        self._wake = self._roster.wake
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
            self._check_running()
            self._roster.add(job)

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
            self._check_running()
            self._roster.check_room(len(self._side_work), self.n_queue + 1)
            future = self._side_work.add(work)
            self._wake.notify()
        return future

    def _check_running(self) -> None:
        if self._stopping:
            raise StoppingError("the server is stopping")

    def close(self, grace: float = 0.0) -> None:
        """Take no more requests, go on with those at hand for at most `grace` seconds, cancel the rest, and stop."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(grace)
        for job in self._roster.all():
            job.cancel()
        with self._wake:
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
                while not (self._roster.waiting or self._roster.active or self._side_work):
                    if self._stopping:
                        return
                    self._wake.wait()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  # a defect of ours must not leave clients without an answer
                self._fail_all(error)

    def _step(self) -> None:
        now = time.monotonic()
        for job in self._roster.all():
            job.expire(now)
        self._drop_cancelled()
        while (admitted := self._roster.admit()) is not None:
            self._delivery.begin(admitted)
        self._side_work.step()
        self._evaluation.step()
        self._roster.count()
        self._count_cache()

    def _count_cache(self) -> None:
        sizes = [(use.what, use.size) for use in self.model.session.memory()]
        self.counts.kv_used = self.counts.kv_cells - self.model.session.n_free
        self.counts.kv_bytes = sum(size for what, size in sizes if what == "kv")
        self.counts.kv_bytes_limit = sum(size for what, size in sizes if what in {"kv", "kv-reserved"})

    def _drop_cancelled(self) -> None:
        for job in self._roster.take_cancelled():
            if job.timed_out and not job.steps.begun:
                self._delivery.fail(job, TimeUpError("the request's time was up before it was begun"))
            else:
                self._delivery.cancel(job)
        for job in [job for job in self._roster.active if job.steps.cancelled]:
            self._delivery.cancel(job)

    def _fail_all(self, error: Exception) -> None:
        for job in self._roster.take_all():
            self._delivery.fail(job, error)
        self._side_work.fail(error)
