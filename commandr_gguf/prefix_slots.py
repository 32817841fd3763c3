"""The sequences of a session as a prefix cache sees them: who uses which, and what each has in common with a prompt."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Slot:
    """One sequence of the session."""

    seq_id: int
    leases: weakref.WeakSet[Lease] = field(default_factory=weakref.WeakSet)
    """A lease that its owner lost without giving it back drops out by itself."""
    used: int = 0
    """When it was last given or taken back, on a clock of the cache's own."""
    n_prompt: int = 0
    """Length of the last prompt; what follows in the sequence is a reply."""
    is_head: bool = False
    """It holds what prompts have in common and is only copied from."""


@dataclass(frozen=True)
class Mark:
    """A prefix that is to be kept."""

    tokens: list[int]
    to_file: bool = False
    to_slot: bool = False
    """In a sequence of its own."""


@dataclass(eq=False)
class Lease:
    """A sequence for one prompt and its reply. Give it back with `release`, or use it in a `with` statement."""

    seq_id: int
    memory_tokens: int = 0
    """Of the prompt, those that the session held."""
    disk_tokens: int = 0
    """Of the prompt, those that were read from a file."""
    computed_tokens: int = 0
    """Of the prompt, those that `acquire` computed: the session holds them now, although nothing was saved by it."""
    seconds: float = 0.0
    """What `acquire` or `lend` took."""
    fits: bool = True
    """Whether there were cells for the rest of the prompt."""
    marks: list[Mark] = field(default_factory=list)
    """Prefixes of the prompt that are to be kept, the shorter first."""
    _slot: Slot | None = None
    _clock: Iterator[int] | None = None

    @property
    def slot(self) -> Slot | None:
        """None once it was given back."""
        return self._slot

    @property
    def held_tokens(self) -> int:
        """Of the prompt, those that did not have to be computed."""
        return self.memory_tokens + self.disk_tokens

    def release(self) -> None:
        """The sequence may go to another prompt; what it holds stays until then. Calling it again does nothing."""
        slot, self._slot = self._slot, None
        if slot is not None and self._clock is not None:
            slot.leases.discard(self)
            slot.used = next(self._clock)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(frozen=True)
class Candidate:
    """What a slot has in common with a prompt."""

    slot: Slot
    n_common: int
    n_held: int

    @property
    def goes_on(self) -> bool:
        """The prompt goes on where the slot ends, or asks for another reply to the same prompt."""
        slot = self.slot
        return not slot.leases and not slot.is_head and self.n_common >= min(self.n_held, max(slot.n_prompt, 1))


def departure(candidates: Sequence[Candidate]) -> int:
    """Where the prompt leaves the sequence that it shares most with; 0 when it goes on where that ends."""
    best = candidates[0] if candidates else None
    return best.n_common if best and not best.goes_on and best.n_common < best.n_held else 0


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens two lists share."""
    limit = min(len(a), len(b))
    for start in range(0, limit, 1024):
        end = min(start + 1024, limit)
        if a[start:end] != b[start:end]:
            return next(i for i in range(start, end) if a[i] != b[i])
    return limit
