"""What becomes of a request's pieces and errors: they go to who waits for them."""

from __future__ import annotations

import logging

from commandr_gguf.errors import CancelledError, CommandRError, ContextFullError
from commandr_gguf.generation import Piece
from commandr_gguf.server.counts import Counts
from commandr_gguf.server.errors import TimeUpError
from commandr_gguf.server.jobs import Failure, Job
from commandr_gguf.server.roster import Roster

logger = logging.getLogger("commandr_gguf.server.engine")


class Delivery:
    """Begins requests, hands out what they give, and ends them. On the engine's thread."""

    def __init__(self, roster: Roster, counts: Counts) -> None:
        self._roster = roster
        self._counts = counts

    def begin(self, job: Job) -> None:
        """Take a sequence for an active job, or put it back when there is no room beside the others."""
        try:
            job.steps.begin()
        except Exception as error:  # noqa: BLE001  # other requests go on
            self.fail(job, error)
            return
        if not job.steps.fits and len(self._roster.active) > 1:
            self._roster.suspend(job)

    def give(self, job: Job, piece: Piece) -> None:
        """Hand a piece to who waits for it, and begin the second generation where the reply needs one."""
        steps = job.steps
        try:
            output = job.read(piece)
        except Exception as error:  # noqa: BLE001  # other requests go on
            self.fail(job, error)
            return
        if output.ended:
            reason = "timeout" if job.timed_out else str(piece.finish_reason or "stop")
            self._counts.add_end(reason)
            self._roster.leave(job)
        job.deliver(output)
        if not output.ended and job.steps is not steps:
            self._roster.is_blocked = False
            if job in self._roster.active:
                self.begin(job)

    def cancel(self, job: Job) -> None:
        """End a job that was cancelled."""
        self.give(job, job.steps.cut("cancelled"))

    def end_by(self, job: Job, error: CommandRError) -> None:
        """End a job whose evaluation failed: a reply that has begun ends where the context or the server does."""
        if isinstance(error, CancelledError):
            self.cancel(job)
        elif isinstance(error, ContextFullError) and job.steps.begun:
            self.give(job, job.steps.cut("length"))
        else:
            self.fail(job, error)

    def fail(self, job: Job, error: Exception) -> None:
        """End a job with an error. What is no error of this package is a defect, which the log describes."""
        if not isinstance(error, CommandRError):
            logger.error("a request failed", exc_info=error)
            error = CommandRError("the server failed; its log says why")
        self._counts.add_end("timeout" if isinstance(error, TimeUpError) else "error")
        self._roster.leave(job)
        job.deliver(Failure(error))
