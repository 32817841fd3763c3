"""A reply as it is computed, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

from commandr_gguf.errors import CancelledError, CommandRError, ContextFullError, OutOfMemoryError
from commandr_gguf.eval_items import NextToken, Want
from commandr_gguf.generation import Generation, Piece
from commandr_gguf.generation_steps import GenerationSteps
from commandr_gguf.session import Progress


class GenerationStream(Iterator[Piece]):
    """Pieces of a reply as they are computed; nothing is computed before the first is asked for.

    Leaving the loop early, close() and exceptions leave the session usable. `result` grows with every piece. Instead of
    asking for pieces, `steps` may be taken by who evaluates several generations at once.
    """

    def __init__(self, steps: GenerationSteps, progress: Progress | None = None) -> None:
        """What is computed, and what is called during each evaluation, see `Session.eval`."""
        self.steps = steps
        """What computes the reply."""
        self._progress = progress
        self._pieces: Generator[Piece, None, None] = self._run()

    def __next__(self) -> Piece:
        return next(self._pieces)

    @property
    def result(self) -> Generation:
        """The reply so far."""
        return self.steps.result

    def finish(self) -> Generation:
        """Compute the rest and return the whole reply."""
        for _ in self:
            pass
        return self.result

    def cancel(self) -> None:
        """Stop this reply and no other, from any thread and without waiting; it ends as "cancelled"."""
        self.steps.cancel()

    def close(self) -> None:
        """Compute no more. The finish reason of an unfinished reply becomes "cancelled".

        Where another thread computes it, that thread ends it; this one does not wait.
        """
        self.steps.cancel()
        try:
            self._pieces.close()
        except ValueError:  # the generator runs in another thread
            return
        self.steps.close()

    def __enter__(self) -> GenerationStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> Generator[Piece, None, None]:
        try:
            self.steps.begin()
            while not self.steps.ended:
                piece = self._step()
                if piece is not None:
                    yield piece
        finally:
            self.steps.close()

    def _step(self) -> Piece | None:
        """Compute some tokens: the piece that they complete."""
        started = time.perf_counter()
        try:
            want = self.steps.want(go_on=self._not_cancelled)
            if isinstance(want, Piece):
                return want
            found = self._evaluate(want)
        except CancelledError:
            return self.steps.cut("cancelled")
        except ContextFullError:
            if not self.steps.begun:
                raise
            return self.steps.cut("length")
        return self.steps.take(found, time.perf_counter() - started)

    def _evaluate(self, want: Want, *, again: bool = True) -> list[NextToken]:
        """The next tokens, without the draft where there are no cells for it."""
        try:
            [found] = self.steps.session.advance([want], progress=self._go_on)
        except (ContextFullError, OutOfMemoryError) as error:
            if want.draft:
                plain = self.steps.want(drafts=False)
                if isinstance(plain, Want):
                    return self._evaluate(plain)
                raise CancelledError("the reply was cancelled") from None
            # Other conversations may hold cells that this one needs; or memory, where the cache cannot grow.
            cache = self.steps.cache
            if isinstance(error, OutOfMemoryError):
                if cache is None or not cache.give_way():
                    raise
                return self._evaluate(want, again=again)
            if not again or cache is None or not cache.make_room(max(self.steps.n_pending, 1)):
                raise
            return self._evaluate(want, again=False)
        if isinstance(found, CommandRError):
            raise found
        return found

    def _not_cancelled(self, *_: int) -> bool:
        return not self.steps.cancelled

    def _go_on(self, n_done: int, n_total: int) -> object:
        if self.steps.cancelled:
            return False
        progress = self._progress or self.steps.session.progress
        return None if progress is None else progress(n_done, n_total)
