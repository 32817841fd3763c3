"""An engine whose steps are taken by hand, and what it delivers."""

from __future__ import annotations

from commandr_gguf import CommandR, Finish, GenerationStream, Reply, ReplyStream
from commandr_gguf.server.engine import Engine
from commandr_gguf.server.jobs import Failure, Job, Output


class Asked:
    """A submitted request and its outputs so far."""

    def __init__(self, engine: Engine, stream: ReplyStream | GenerationStream, *, timeout: float | None = None) -> None:
        self.stream = stream
        self.outputs: list[Output] = []
        self.failures: list[Failure] = []
        self.job = Job(stream, self._deliver, timeout=timeout)
        engine.submit(self.job)

    def _deliver(self, output: Output | Failure) -> None:
        if isinstance(output, Failure):
            self.failures.append(output)
        else:
            self.outputs.append(output)

    @property
    def ended(self) -> bool:
        return bool(self.failures) or any(output.ended for output in self.outputs)

    @property
    def tokens(self) -> list[int]:
        return [token for output in self.outputs for token in output.piece.tokens]

    @property
    def reply(self) -> Reply:
        last = self.outputs[-1].events[-1]
        assert isinstance(last, Finish)
        return last.reply


def run_all(engine: Engine, *asked: Asked, limit: int = 2000) -> int:
    """Take steps until all of them have ended; returns how many."""
    for n_steps in range(limit):
        if all(one.ended for one in asked):
            return n_steps
        engine._step()
    raise AssertionError(f"not ended after {limit} steps")


def leases(model: CommandR) -> int:
    return sum(len(slot.leases) for slot in model.cache._slots)
