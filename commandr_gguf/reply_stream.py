"""The events of a reply while the model writes it."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

from commandr_gguf.chat.events import Event
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.visible import Source
from commandr_gguf.generation import Generation
from commandr_gguf.reply_reader import ReplyReader, Stage

__all__ = ["ReplyStream", "Stage"]


class ReplyStream(Iterator[Event]):
    """Events of a reply as they are computed; the last is `Finish`. Nothing is computed before the first is asked for.

    A model that was offered tools and wants none is asked again without them: `directly_answer` is no answer. Leaving
    the loop early, close() and exceptions leave the model usable. `reply` grows with every event. Instead of asking for
    events, `reader` may be taken by who evaluates several generations at once.
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
        self.reader = ReplyReader(stage, documents, answer_directly, stop=stop)
        """What makes events of pieces."""
        self._turn = threading.RLock()
        """Held by the thread that computes or closes."""
        self._events: Generator[Event, None, None] = self._run()

    def __next__(self) -> Event:
        with self._turn:
            return next(self._events)

    @property
    def reply(self) -> Reply:
        """The reply so far."""
        return self.reader.reply

    @property
    def generations(self) -> list[Generation]:
        """What the reply is read from: one generation, and a second one when the model wanted no tool."""
        return self.reader.generations

    def finish(self) -> Reply:
        """Compute the rest and return the whole reply."""
        for _ in self:
            pass
        return self.reply

    def cancel(self) -> None:
        """Stop this reply and no other, from any thread and without waiting; it ends as "cancelled"."""
        self.reader.cancel()

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
                    self.reader.close()
            finally:
                self._turn.release()

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> Generator[Event, None, None]:
        reader = self.reader
        try:
            while not reader.ended:
                stage = reader.stage
                for piece in stage.pieces:
                    yield from reader.feed(piece)
                    if reader.ended or reader.stage is not stage:
                        break
                else:  # it was closed
                    yield from reader.end_stage()
        finally:
            reader.close()
