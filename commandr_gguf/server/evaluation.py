"""One step of the engine: what the active requests want, evaluated in one graph."""

from __future__ import annotations

import time
from typing import Any

from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import CancelledError, CommandRError, ContextFullError, OutOfMemoryError
from commandr_gguf.eval_items import Want
from commandr_gguf.generation import Piece
from commandr_gguf.server.budget import PrefillBudget
from commandr_gguf.server.counts import Counts
from commandr_gguf.server.delivery import Delivery
from commandr_gguf.server.jobs import Job
from commandr_gguf.server.roster import Roster

_LEAST_PART = 4
"""Tokens of a prompt that are worth an evaluation."""


class Evaluation:
    """Evaluates the next token of each reply that is being written, and of prompts as much as the budget allows.

    Args:
        model: of the engine.
        roster: whose active requests are computed.
        delivery: gets what comes of it.
        counts: told of each step.
        n_prefill: most tokens of prompts in one step.
    """

    def __init__(self, model: CommandR, roster: Roster, delivery: Delivery, counts: Counts, n_prefill: int) -> None:
        self._model = model
        self._roster = roster
        self._delivery = delivery
        self._counts = counts
        self._n_batch = n_prefill
        self._budget = PrefillBudget(n_prefill)

    def step(self) -> None:
        """Evaluate once, if there is anything to evaluate."""
        wants = self._room_for(self._collect())
        if wants:
            self._evaluate(wants)

    def _collect(self) -> list[tuple[Job, Want]]:
        """What each reply wants, and of prompts as much as fits the budget."""
        active = self._roster.active
        is_alone = len(active) == 1 and not self._roster.waiting
        writing = [job for job in active if not job.is_prompt]
        reading = [job for job in active if job.is_prompt]
        wants: list[tuple[Job, Want]] = []
        for job in writing:
            self._ask(wants, job, drafts=is_alone)
        rest = min(self._budget.tokens(len(writing), len(reading)), max(self._n_batch - len(writing), 1))
        for job in reading:
            if rest < min(_LEAST_PART, job.steps.n_pending):
                break
            rest -= self._ask(wants, job, n_most=rest)
            self._roster.to_the_end(job)
        return wants

    def _ask(self, wants: list[tuple[Job, Want]], job: Job, *, n_most: int | None = None, drafts: bool = False) -> int:
        """Add what a job wants; returns how many tokens that is. It may have ended instead, or it fails."""
        try:
            want = job.steps.want(n_most=n_most, drafts=drafts)
        except Exception as error:  # noqa: BLE001  # other requests go on
            self._delivery.fail(job, error)
            return 0
        if isinstance(want, Piece):
            self._delivery.give(job, want)
            return 0
        wants.append((job, want))
        return len(want.tokens) - job.steps.n_held

    def _room_for(self, wants: list[tuple[Job, Want]]) -> list[tuple[Job, Want]]:
        """Those for which there are cells, the youngest request giving its own up where there are not."""
        while wants and len(self._roster.active) > 1:
            n_new = sum(len(want.tokens) - job.steps.n_held for job, want in wants)
            if self._model.cache.make_room(n_new):
                break
            wants = self._without_youngest(wants)
        return wants

    def _without_youngest(self, wants: list[tuple[Job, Want]]) -> list[tuple[Job, Want]]:
        """The youngest of all that are active waits, whether it wants anything in this step or not."""
        youngest = max(self._roster.active, key=lambda job: job.number)
        self._roster.suspend(youngest)
        return [(job, want) for job, want in wants if job is not youngest]

    def _evaluate(self, wants: list[tuple[Job, Want]]) -> None:
        started = time.perf_counter()
        try:
            results = self._advance(wants)
        except OutOfMemoryError as error:
            if len(self._roster.active) == 1:
                self._delivery.end_by(wants[0][0], error)
            elif rest := self._without_youngest(wants):  # what there is memory for goes on
                self._evaluate(rest)
            return
        except CommandRError as error:
            for job, _ in wants:
                self._delivery.end_by(job, error)
            return
        seconds = time.perf_counter() - started
        self._count(wants, seconds)
        for (job, _), found in zip(wants, results, strict=True):
            if isinstance(found, CommandRError):
                self._delivery.fail(job, found)
                continue
            usage, was_begun = job.steps.result.usage, job.steps.begun
            n_drafted, n_accepted = usage.drafted_tokens, usage.accepted_tokens
            piece = job.steps.take(found, seconds)
            self._counts.reply_tokens += sum(step.token is not None for step in found)
            self._counts.drafted_tokens += usage.drafted_tokens - n_drafted
            self._counts.accepted_tokens += usage.accepted_tokens - n_accepted
            if job.steps.begun and not was_begun:
                self._counts.cached_tokens += usage.cached_tokens
            if piece is not None:
                self._delivery.give(job, piece)

    def _advance(self, wants: list[tuple[Job, Want]]) -> list[Any]:
        """Evaluate; without drafts and with all cells that others can give up, where it does not fit.

        Raises ContextFullError, OutOfMemoryError: no sequence that is not in use can be given up any more.
        """
        session, cache = self._model.session, self._model.cache
        has_room = False
        while True:
            try:
                return session.advance([want for _, want in wants])
            except (ContextFullError, OutOfMemoryError) as error:
                if any(want.draft for _, want in wants):
                    wants = [(job, self._plain(job)) for job, _ in wants]
                elif isinstance(error, OutOfMemoryError):  # the cache cannot grow, however much of the context is left
                    if not cache.give_way():
                        raise
                else:
                    n_new = sum(len(want.tokens) - job.steps.n_held for job, want in wants)
                    if has_room or not cache.make_room(n_new):
                        raise
                    has_room = True

    def _plain(self, job: Job) -> Want:
        """What a job wants without a draft, which it gets only when it is alone."""
        want = job.steps.want(drafts=False)
        if isinstance(want, Piece):
            raise CancelledError("the reply was cancelled")
        return want

    def _count(self, wants: list[tuple[Job, Want]], seconds: float) -> None:
        prompts = [(job, want) for job, want in wants if job.is_prompt]
        n_prompt = sum(len(want.tokens) - job.steps.n_held for job, want in prompts)
        n_writing = len(wants) - len(prompts)
        self._budget.add(n_writing, n_prompt, seconds)
        self._counts.add_step(n_prompt, n_writing, seconds)
