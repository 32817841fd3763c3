"""The events of a reply while the model writes it."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from commandr_gguf.chat.events import Event, Finish, Part
from commandr_gguf.chat.filter import ReplyParser
from commandr_gguf.chat.parsing.stopped import VisibleStops, joined
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.reply_builder import ReplyBuilder
from commandr_gguf.chat.visible import Source
from commandr_gguf.generation import Generation
from commandr_gguf.stream import GenerationStream
from commandr_gguf.usage import FinishReason, Timings, Usage

_Numbers = TypeVar("_Numbers", Usage, Timings)


@dataclass(frozen=True)
class Stage:
    """One generation and the parser that reads it."""

    pieces: GenerationStream
    parser: ReplyParser
    beginning: str = ""
    """Of the reply, where the prompt ends with it: the parser reads it first."""


class ReplyStream(Iterator[Event]):
    """Events of a reply as they are computed; the last is `Finish`. Nothing is computed before the first is asked for.

    A model that was offered tools and wants none is asked again without them: `directly_answer` is no answer. Leaving
    the loop early, close() and exceptions leave the model usable. `reply` grows with every event.
    """

    def __init__(
        self,
        stage: Stage,
        documents: Sequence[Source] = (),
        answer_directly: Callable[[int], Stage] | None = None,
        *,
        stop: str | Sequence[str] = (),
    ) -> None:
        """The reply that a generation writes.

        Args:
            stage: the generation.
            documents: all that may be cited.
            answer_directly: is told how many tokens were written and gives the generation without tools.
            stop: strings that end the reply where they occur in its visible text, and are no part of that.

        Raises:
            ArgumentError: `stop` is no such thing.
        """
        self._stages = [stage]
        self._answer_directly = answer_directly
        self._stops = VisibleStops(stop)
        self._builder = ReplyBuilder(documents)
        self._cancelled = threading.Event()
        self._turn = threading.RLock()
        """Held by the thread that computes or closes."""
        self._finish_reason: FinishReason | None = None
        self._events: Generator[Event, None, None] = self._run()

    def __next__(self) -> Event:
        with self._turn:
            return next(self._events)

    @property
    def reply(self) -> Reply:
        """The reply so far."""
        results = self.generations
        return self._builder.build(
            finish_reason=self._finish_reason,
            usage=_sum([result.usage for result in results]),
            timings=_sum([result.timings for result in results]),
            raw_text="".join(stage.beginning + stage.pieces.result.text for stage in self._stages),
            tokens=[token for result in results for token in result.tokens],
            logprobs=[item for result in results for item in result.logprobs],
        )

    @property
    def generations(self) -> list[Generation]:
        """What the reply is read from: one generation, and a second one when the model wanted no tool."""
        return [stage.pieces.result for stage in self._stages]

    def finish(self) -> Reply:
        """Compute the rest and return the whole reply."""
        for _ in self:
            pass
        return self.reply

    def cancel(self) -> None:
        """Stop this reply and no other, from any thread and without waiting; it ends as "cancelled"."""
        self._cancelled.set()
        self._stages[-1].pieces.cancel()

    def close(self) -> None:
        """Compute no more, from any thread. The finish reason of an unfinished reply becomes "cancelled".

        Where the reply is being computed, what computes it ends it so, and this does not wait for that.
        """
        self.cancel()
        if self._turn.acquire(blocking=False):
            try:
                # It is running where a progress function of this very thread closes it.
                if inspect.getgeneratorstate(self._events) != inspect.GEN_RUNNING:
                    self._events.close()
                    self._end()
            finally:
                self._turn.release()

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> Generator[Event, None, None]:
        try:
            yield from self._read(self._stages[0])
            if self._answer_directly is not None and self._says_nothing():
                self._stages.append(self._answer_directly(len(self.generations[0].tokens)))
                if self._cancelled.is_set():
                    self._stages[-1].pieces.cancel()
                yield from self._read(self._stages[-1])
            self._finish_reason = "stop" if self._stops.found else self.generations[-1].finish_reason
            yield Finish(self.reply)
        finally:
            self._end()

    def _read(self, stage: Stage) -> Generator[Event, None, None]:
        for text in itertools.chain([stage.beginning], (piece.text for piece in stage.pieces)):
            yield from map(self._builder.add, self._parse(stage.parser, text))
            if self._stops.found:
                stage.pieces.close()
                stage.pieces.result.finish_reason = "stop"
                break
        cut = self._stops.found or stage.pieces.result.finish_reason != "stop"
        rest = [given for part in stage.parser.flush(cut=cut) for given in self._stops.add(part)]
        yield from map(self._builder.add, joined([*rest, *self._stops.flush()]))

    def _parse(self, parser: ReplyParser, text: str) -> list[Part]:
        """The events that a piece of the reply completes."""
        if not self._stops.watches:
            return parser.write(text)
        parts: list[Part] = []
        for character in text:  # one by one, so that the end does not depend on the tokens
            for part in parser.write(character):
                parts += self._stops.add(part)
            if self._stops.found:
                break
        return joined(parts)

    def _end(self) -> None:
        for stage in self._stages:
            stage.pieces.close()
        self._finish_reason = self._finish_reason or "cancelled"

    def _says_nothing(self) -> bool:
        """Whether the model has ended the reply, and it held a call of no tool at most."""
        reply = self.reply
        ended = self.generations[0].finish_reason == "stop" and not self._stops.found
        return ended and not reply.tool_calls and not reply.text.strip()


def _sum(numbers: Sequence[_Numbers]) -> _Numbers:
    """Field by field."""
    first = numbers[0]
    names = [field.name for field in dataclasses.fields(first)]
    return dataclasses.replace(first, **{name: sum(getattr(one, name) for one in numbers) for name in names})
