"""One request on its way through the engine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from commandr_gguf.chat.events import Event
from commandr_gguf.errors import CommandRError
from commandr_gguf.generation import Piece
from commandr_gguf.generation_steps import GenerationSteps
from commandr_gguf.prefix_slots import common_prefix
from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.stream import GenerationStream

_FEW_TOKENS = 64
"""More tokens than these, waiting to be evaluated, are a prompt's."""
_numbers = itertools.count()


@dataclass(frozen=True)
class Output:
    """What one step of the engine gave a request."""

    piece: Piece
    """Text, tokens and log-probabilities as the model wrote them."""
    events: list[Event]
    """Of a reply of `CommandR.chat`, what the piece completes; the last one of all is `Finish`."""
    ended: bool
    """Whether there is no more to come."""
    timed_out: bool = False
    """The reply was cut because its time was up."""


@dataclass(frozen=True)
class Failure:
    """Why there is no more to come."""

    error: CommandRError


class Job:
    """A stream of `CommandR.chat` or `CommandR.generate` that nobody has asked for anything yet.

    Args:
        stream: what is to be computed. From now on it belongs to the engine's thread, but for `cancel`.
        deliver: called on the engine's thread with what each step gave; it must not wait.
        timeout: seconds, waiting in the queue included; None = no limit.
    """

    def __init__(
        self,
        stream: ReplyStream | GenerationStream,
        deliver: Callable[[Output | Failure], object],
        *,
        timeout: float | None = None,
    ) -> None:
        self._stream = stream
        # Asked for dozens of times a step, while to ask an abstract class whose instance a stream is takes long.
        self._reader = stream.reader if isinstance(stream, ReplyStream) else None
        self.deliver = deliver
        self.submitted = time.monotonic()
        self.deadline = None if timeout is None else self.submitted + timeout
        self.timed_out = False
        self.number = next(_numbers)
        """Rises from job to job."""
        self._common: dict[int, int] = {}

    @property
    def steps(self) -> GenerationSteps:
        """Those of the generation that is to be computed now; a reply may need two, one after the other."""
        if self._reader is not None:
            return self._reader.stage.pieces.steps
        return cast("GenerationStream", self._stream).steps

    @property
    def ended(self) -> bool:
        """Whether the last piece was read."""
        return self.steps.ended if self._reader is None else self._reader.ended

    @property
    def is_prompt(self) -> bool:
        """Whether a prompt is to be evaluated, which takes long and is cut into parts."""
        return not self.steps.begun or self.steps.n_pending > _FEW_TOKENS

    def read(self, piece: Piece) -> Output:
        """What a piece completes. Raises CommandRError where a second generation is wanted and cannot be."""
        events = [] if self._reader is None else list(self._reader.feed(piece))
        return Output(piece, events, self.ended, self.timed_out)

    def expire(self, now: float) -> None:
        """Cancel a job whose time is up."""
        if self.deadline is not None and now >= self.deadline and not self.timed_out:
            self.timed_out = True
            self.cancel()

    def cancel(self) -> None:
        """Let the next step end it. From any thread."""
        self._stream.cancel()

    def close(self) -> None:
        """Give back what it holds."""
        if self._reader is None:
            self.steps.close()
        else:
            self._reader.close()

    def n_common(self, other: Job) -> int:
        """How many leading tokens the prompts of two jobs share."""
        if other.number not in self._common:
            self._common[other.number] = common_prefix(self.steps.prompt, other.steps.prompt)
        return self._common[other.number]
