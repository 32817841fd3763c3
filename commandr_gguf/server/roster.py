"""The requests at hand: those that wait, and those that are computed."""

from __future__ import annotations

import threading
import time
from collections import deque

from commandr_gguf.server.counts import Counts
from commandr_gguf.server.errors import QueueFullError
from commandr_gguf.server.jobs import Job

_SHARED = 64
"""Tokens that are worth waiting for until another request has computed them."""


class Roster:
    """Who waits and who is active. Other threads only add requests, and look under the lock.

    Args:
        counts: told of who waits and who is refused.
        n_parallel: requests that are computed at once.
        n_queue: requests that may wait beside those.
    """

    def __init__(self, counts: Counts, n_parallel: int, n_queue: int) -> None:
        self.n_parallel = n_parallel
        self.n_queue = n_queue
        self.wake = threading.Condition()
        """The lock; notified when there is something new to do."""
        self.waiting: deque[Job] = deque()
        self.active: list[Job] = []
        """In the order in which their prompts take turns."""
        self.is_blocked = False
        """The first in the queue waits for cells that those at work hold."""
        self._counts = counts

    def add(self, job: Job) -> None:
        """Put a request into the queue. The caller has the lock. Raises QueueFullError: as many wait as may."""
        self.check_room(len(self.waiting), self.n_queue + self.n_parallel - len(self.active))
        self.waiting.append(job)
        self._counts.waiting = len(self.waiting)
        self.wake.notify()

    def check_room(self, n_waiting: int, n_most: int) -> None:
        """Raises QueueFullError where `n_most` wait already."""
        if n_waiting >= n_most:
            self._counts.refused += 1
            raise QueueFullError(
                f"{n_waiting} requests wait already", self._counts.retry_after(n_waiting, self.n_parallel)
            )

    def all(self) -> list[Job]:
        """Those that wait and those that are active."""
        with self.wake:
            return [*self.waiting, *self.active]

    def admit(self) -> Job | None:
        """Make the next request active, if there is one and room for it."""
        if len(self.active) >= self.n_parallel or self.is_blocked:
            return None
        with self.wake:
            job = next((job for job in self.waiting if not self._is_awaited(job)), None)
            if job is not None:
                self.waiting.remove(job)
                self.active.append(job)
        return job

    def _is_awaited(self, job: Job) -> bool:
        """Whether another request is just computing what this one would have to compute as well."""
        return any(
            other.is_prompt and job.n_common(other) >= max(other.steps.n_held, 0) + _SHARED for other in self.active
        )

    def take_cancelled(self) -> list[Job]:
        """Those that were cancelled while they waited, which wait no more."""
        with self.wake:
            gone = [job for job in self.waiting if job.steps.cancelled]
            self.waiting = deque(job for job in self.waiting if not job.steps.cancelled)
        return gone

    def take_all(self) -> list[Job]:
        """Those that wait and those that are active; none waits any more."""
        with self.wake:
            jobs = [*self.waiting, *self.active]
            self.waiting.clear()
        return jobs

    def to_the_end(self, job: Job) -> None:
        """Those behind an active request are the next whose prompts take their turns."""
        if job in self.active:
            self.active = [*(other for other in self.active if other is not job), job]

    def suspend(self, job: Job) -> None:
        """Let a job give its cells up and be the next that is taken up, when another one has ended."""
        self._counts.suspended += job.steps.begun
        job.steps.suspend()
        self.is_blocked = True
        with self.wake:
            self.active.remove(job)
            self.waiting.appendleft(job)

    def leave(self, job: Job) -> None:
        """A job has ended."""
        self.is_blocked = False
        with self.wake:
            if job in self.active:
                self.active.remove(job)
        job.close()
        self._counts.seconds += time.monotonic() - job.submitted

    def count(self) -> None:
        """Tell the counts who is at hand."""
        with self.wake:
            self._counts.waiting, self._counts.active = len(self.waiting), len(self.active)
