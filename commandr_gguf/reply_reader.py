"""The events of a reply, read from the pieces of one generation or two, whoever computes them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from commandr_gguf.chat.events import Event, Finish, Part
from commandr_gguf.chat.filter import ReplyParser
from commandr_gguf.chat.parsing.stopped import VisibleStops, joined
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.reply_builder import ReplyBuilder
from commandr_gguf.chat.visible import Source
from commandr_gguf.generation import Generation, Piece
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


class ReplyReader:
    """Takes the pieces of a reply and gives its events; the last is `Finish`.

    A model that was offered tools and wants none is asked again without them: `directly_answer` is no answer. Then
    `stage` is another one, whose pieces are to be computed next. All but `cancel` is for one thread at a time.
    """

    def __init__(
        self,
        stage: Stage,
        documents: Sequence[Source] = (),
        answer_directly: Callable[[int], Stage] | None = None,
        *,
        stop: str | Sequence[str] = (),
    ) -> None:
        """See `ReplyStream`."""
        self._stages = [stage]
        self._has_begun = False
        """Whether the parser of the last stage has read anything."""
        self._answer_directly = answer_directly
        self._stops = VisibleStops(stop)
        self._builder = ReplyBuilder(documents)
        self._cancelled = threading.Event()
        self._finish_reason: FinishReason | None = None

    @property
    def stage(self) -> Stage:
        """Whose pieces are read."""
        return self._stages[-1]

    @property
    def ended(self) -> bool:
        """Whether `Finish` was given or the reply was closed."""
        return self._finish_reason is not None

    @property
    def stopped_early(self) -> bool:
        """Whether a stop string ended the reply."""
        return self._stops.found

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

    def feed(self, piece: Piece) -> Generator[Event, None, None]:
        """The events that the next piece of `stage` completes. `reply` grows with each that is taken."""
        stage = self.stage
        if not self._has_begun:
            self._has_begun = True
            yield from self._parse(stage.parser, stage.beginning)
        yield from self._parse(stage.parser, piece.text)
        if self._stops.found:
            stage.pieces.result.finish_reason = "stop"
        if self._stops.found or piece.finish_reason is not None:
            yield from self.end_stage()

    def end_stage(self) -> Generator[Event, None, None]:
        """The last events of `stage`, when no more pieces come; then there is another one, or the reply has ended."""
        stage = self.stage
        stage.pieces.close()
        cut = self._stops.found or stage.pieces.result.finish_reason != "stop"
        rest = [given for part in stage.parser.flush(cut=cut) for given in self._stops.add(part)]
        yield from map(self._builder.add, joined([*rest, *self._stops.flush()]))
        if self._answer_directly is not None and self._says_nothing():
            answer_directly, self._answer_directly = self._answer_directly, None
            self._stages.append(answer_directly(len(self.generations[0].tokens)))
            self._has_begun = False
            if self._cancelled.is_set():
                self.stage.pieces.cancel()
            return
        self._finish_reason = "stop" if self._stops.found else self.generations[-1].finish_reason or "cancelled"
        yield Finish(self.reply)

    def cancel(self) -> None:
        """Let the reply end as "cancelled". From any thread; does not wait."""
        self._cancelled.set()
        self._stages[-1].pieces.cancel()

    def close(self) -> None:
        """Compute no more. The finish reason of an unfinished reply becomes "cancelled"."""
        for stage in self._stages:
            stage.pieces.close()
        self._finish_reason = self._finish_reason or "cancelled"

    def _parse(self, parser: ReplyParser, text: str) -> Generator[Part, None, None]:
        """The events that a piece of the reply completes."""
        if not self._stops.watches:
            yield from map(self._builder.add, parser.write(text))
            return
        parts: list[Part] = []
        for character in text:  # one by one, so that the end does not depend on the tokens
            for part in parser.write(character):
                parts += self._stops.add(part)
            if self._stops.found:
                break
        yield from map(self._builder.add, joined(parts))

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
