"""Which of a session's sequences a prompt goes to, so that little of it has to be computed; and the same on disk."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from commandr_gguf.errors import (
    ArgumentError,
    ContextFullError,
    FileError,
    FormatError,
    OutOfMemoryError,
    UnsupportedError,
    integer,
)
from commandr_gguf.prefix_slots import Candidate, Lease, Mark, Slot, common_prefix, departure
from commandr_gguf.prefix_store import PrefixStore
from commandr_gguf.session import Progress, Session, Tokens
from commandr_gguf.token_buffer import token_ids

MAX_SEQUENCES = 64

T = TypeVar("T")


class PrefixCache:
    """Gives each prompt the sequence that shares its longest prefix.

    A prompt that goes on where a sequence ends, or wants another reply to the same prompt, takes that sequence. One
    that departs earlier gets a copy of what they share, in an empty sequence or in place of the least recently used
    one; a copy costs no cells. Sequences give way in the order of their last use when the cells of the session run out,
    so that a prompt that fits in n_ctx alone fits. One in use never gives way; when all are, one is shared,
    which costs time and is as right: a session is always told all tokens.

    The head of a prompt, which it has in common with others, is treated with more care. In a model with a sliding
    window a sequence that has grown cannot be cut back to it, so a copy is made when the prompt has been computed up to
    there, which only newer heads displace where possible. With a folder it is kept in a file.

    Any thread may call it. All use of the session's sequences is to go through it; other use is seen, and costs time.

    Args:
        session: with n_seq_max >= 2, or every new conversation displaces the last one.
        directory: for state files; None keeps none. They hold what prompts say: the folder is made for this user alone.
        max_bytes: of all files together; the least recently used ones are removed.
        min_tokens: fewer are not worth a file, a head's copy, or a read from disk.

    Raises:
        FileError: the folder cannot be made or written to.
    """

    def __init__(
        self,
        session: Session,
        directory: str | os.PathLike[str] | None = None,
        *,
        max_bytes: int = 16 << 30,
        min_tokens: int = 64,
    ) -> None:
        self._session = session
        self._store = None if directory is None else PrefixStore(directory, max_bytes)
        self._min_tokens = integer("min_tokens", min_tokens, 1)
        self._n_swa = session.model.hparams.n_swa
        self._slots = [Slot(seq_id) for seq_id in range(_n_seq_max(session))]
        self._clock = itertools.count(1)
        self._lock = threading.RLock()

    @property
    def n_sequences(self) -> int:
        """Sequences of the session."""
        return len(self._slots)

    def acquire(
        self,
        tokens: Tokens,
        *,
        stable: int | None = None,
        whole: bool = False,
        reserve: int = 0,
        progress: Progress | None = None,
    ) -> Lease:
        """`lend`, and where prefixes are to be kept that are not yet, compute them here and keep them.

        Args:
            tokens: the prompt; this and the others are those of `lend`.
            stable: length of its head.
            whole: the prompt itself is worth a file.
            reserve: cells to free for the reply.
            progress: for what is computed here, see `Session.eval`.

        Raises:
            ArgumentError: the prompt is empty, or `stable` or `reserve` is out of range.
            CancelledError: `progress` or `Session.cancel` stopped it.
        """
        started = time.perf_counter()
        lease = self.lend(tokens, stable=stable, whole=whole, reserve=reserve)
        try:
            while lease.marks:
                self._compute(lease, lease.marks[0].tokens, progress)
                self.keep(lease)
        except BaseException:
            lease.release()
            raise
        lease.seconds = time.perf_counter() - started
        return lease

    def lend(self, tokens: Tokens, *, stable: int | None = None, whole: bool = False, reserve: int = 0) -> Lease:
        """The sequence for a prompt. It holds a prefix of it; evaluating the prompt there computes the rest.

        Nothing is computed here. Where prefixes of the prompt are to be kept, the lease has marks: the first of them is
        to be evaluated in the lease's sequence, unless that holds more, and then `keep` is to be called, and so on.

        Args:
            tokens: the prompt.
            stable: length of its head: leading tokens that other prompts will share, such as preamble, tools and
                documents. None takes what it shares with a prompt before it that went on differently.
            whole: the prompt itself is worth a file, beside its head: it will be asked again.
            reserve: cells to free for the reply, where others can give way.

        Raises:
            ArgumentError: the prompt is empty, or `stable` or `reserve` is out of range.
        """
        started = time.perf_counter()
        prompt = token_ids(tokens).tolist()
        stable = None if stable is None else integer("stable", stable, 0, len(prompt))
        reserve = integer("reserve", reserve, 0)
        with self._lock:
            candidates = self._candidates(prompt)
            best = candidates[0] if candidates else None
            slot = best.slot if best and best.goes_on else self._victim()
            if slot is None:
                return self._share(candidates, prompt, started)
            n_head = departure(candidates) if stable is None else stable
            lease = self._lend(slot, prompt)
            try:
                lease.memory_tokens, lease.disk_tokens = self._fill(slot, candidates, prompt)
                n_new = len(prompt) - lease.held_tokens
                self.make_room(n_new + reserve)
                lease.fits = n_new <= self._session.n_free
                if lease.fits:  # if not, the evaluation of the whole prompt says so best
                    lease.marks = self._marks(lease, slot, prompt, min(n_head, len(prompt) - 1), whole=whole)
            except BaseException:
                lease.release()
                raise
        lease.seconds = time.perf_counter() - started
        return lease

    def keep(self, lease: Lease) -> None:
        """Keep the first of a lease's marks, which its sequence holds by now, and go on to the next one."""
        mark = lease.marks.pop(0)
        slot = lease.slot
        if slot is None:
            return
        with self._lock:
            cut = self._session.seq_length(slot.seq_id) > len(mark.tokens)
            if mark.to_file and not cut:
                self._save(slot, mark.tokens)
            if mark.to_slot or cut:
                self._copy_head(slot, mark.tokens, to_file=mark.to_file and cut, to_slot=mark.to_slot)

    def make_room(self, n_tokens: int) -> bool:
        """Free cells until there are `n_tokens`, from sequences that are not in use; returns whether there are."""
        with self._lock:
            while self._session.n_free < n_tokens:
                if not self.give_way():
                    return False
            return True

    def give_way(self) -> bool:
        """Free the cells of one sequence that is not in use, the least recently used; returns whether there was one."""
        with self._lock:
            slot = self._victim(holding=True)
            if slot is not None:
                self._empty(slot)
            return slot is not None

    def within_memory(self, evaluate: Callable[[], T]) -> T:
        """What `evaluate` returns; sequences that are not in use are given up for it where the cache cannot grow."""
        while True:
            try:
                return evaluate()
            except OutOfMemoryError:
                if not self.give_way():
                    raise

    # ---- choosing

    def _candidates(self, prompt: list[int]) -> list[Candidate]:
        """The slots that share a prefix, the longest first, of equal ones that in which the prompt goes on."""
        found = []
        for slot in self._slots:
            held = self._session.seq_tokens(slot.seq_id)
            n_common = common_prefix(held, prompt)
            if n_common:
                found.append(Candidate(slot, n_common, len(held)))
        return sorted(found, key=lambda one: (-one.n_common, not one.goes_on, -one.slot.used))

    def _victim(self, *, holding: bool = False) -> Slot | None:
        """The slot to give up: an empty one unless one is to be `holding` tokens, else the least recently used."""
        lengths = {slot.seq_id: self._session.seq_length(slot.seq_id) for slot in self._slots}
        free = [slot for slot in self._slots if not slot.leases and not (holding and lengths[slot.seq_id] == 0)]
        return min(free, key=lambda slot: (lengths[slot.seq_id] > 0, slot.is_head, slot.used), default=None)

    def _lend(self, slot: Slot, prompt: list[int]) -> Lease:
        lease = Lease(slot.seq_id, _slot=slot, _clock=self._clock)
        slot.leases.add(lease)
        slot.used = next(self._clock)
        slot.n_prompt = len(prompt)
        slot.is_head = False
        return lease

    def _share(self, candidates: list[Candidate], prompt: list[int], started: float) -> Lease:
        """All are in use: the one that was given longest ago has another user, and stays as it is."""
        slot = min(self._slots, key=lambda slot: slot.used)
        lease = self._lend(slot, prompt)
        common = [one.n_common for one in candidates if one.slot is slot]
        lease.memory_tokens = min([*common, len(prompt) - 1]) if common else 0
        lease.seconds = time.perf_counter() - started
        return lease

    def _empty(self, slot: Slot) -> None:
        self._session.seq_rm(slot.seq_id)
        slot.is_head = False
        slot.n_prompt = 0

    # ---- filling

    def _fill(self, target: Slot, candidates: list[Candidate], prompt: list[int]) -> tuple[int, int]:
        """Make `target` hold as long a prefix as can be had; returns how much of it came from memory and from disk."""
        n_common = candidates[0].n_common if candidates else 0
        n_disk = self._load(target, prompt, n_common)
        n_memory = 0 if n_disk else self._copy(target, candidates, prompt)
        if not n_disk and n_memory + self._min_tokens <= n_common:  # a window kept that from being copied
            n_disk = self._load(target, prompt, n_memory)
            n_memory = 0 if n_disk else self._session.seq_length(target.seq_id)
        return n_memory, n_disk

    def _copy(self, target: Slot, candidates: list[Candidate], prompt: list[int]) -> int:
        """Make `target` hold the longest prefix that can be had from memory; returns its length."""
        for one in candidates:
            if one.slot is not target:
                self._session.seq_cp(one.slot.seq_id, target.seq_id)
            n_held = self._cut(target, prompt)
            if n_held:  # with a window it may be 0, and a shorter candidate whole
                if one.slot is not target:
                    one.slot.used = next(self._clock)
                return n_held
        self._session.seq_rm(target.seq_id)
        return 0

    def _cut(self, slot: Slot, prompt: list[int]) -> int:
        """Cut a slot to what it shares with the prompt, short of its last token; returns the length that it has then.

        The last token is always evaluated: its logits are what the prompt is for.
        """
        held = self._session.seq_tokens(slot.seq_id)
        n_keep = min(common_prefix(held, prompt), len(prompt) - 1)
        if n_keep < len(held):
            self._session.seq_rm(slot.seq_id, n_keep)
        return self._session.seq_length(slot.seq_id)

    def _load(self, target: Slot, prompt: list[int], n_in_memory: int) -> int:
        """Fill `target` from the longest file that spares computing min_tokens or more; returns the length, 0 if none.

        What it held is then lost, unless there is no such file.
        """
        if self._store is None:
            return 0
        for stored in self._store.find(prompt):
            if stored.n_tokens < n_in_memory + self._min_tokens:
                break
            self._session.seq_rm(target.seq_id)
            self.make_room(stored.n_tokens)
            try:
                self._session.load_state(stored.path, target.seq_id)
            except (FormatError, UnsupportedError, FileError, ContextFullError, OutOfMemoryError) as error:
                self._store.refuse(stored, error)
                continue
            self._store.accept(stored)
            return self._cut(target, prompt)
        return 0

    # ---- heads

    def _marks(self, lease: Lease, slot: Slot, prompt: list[int], n_head: int, *, whole: bool) -> list[Mark]:
        """The head, for a file and, with a window, for a sequence of its own, and the whole; where not kept yet."""
        marks, head, rest = [], prompt[:n_head], prompt[:-1]
        to_file = self._is_new_file(head)
        to_slot = n_head >= self._min_tokens and self._outgrows_window(slot.n_prompt) and not self._has_head(head)
        if to_file or to_slot:
            marks.append(Mark(head, to_file=to_file, to_slot=to_slot))
        covered = n_head if to_file else 0
        if whole and self._is_new_file(rest, covered) and lease.held_tokens <= len(rest):
            marks.append(Mark(rest, to_file=True))
        return marks

    def _is_new_file(self, tokens: list[int], covered: int = 0) -> bool:
        """Whether a file of these tokens would spare computing min_tokens more than those that are or will be there."""
        return (
            self._store is not None
            and len(tokens) >= self._min_tokens
            and max(covered, self._store.covered(tokens)) <= len(tokens) - self._min_tokens
        )

    def _compute(self, lease: Lease, tokens: list[int], progress: Progress | None) -> None:
        """Make the lease's sequence hold these leading tokens of its prompt, unless it holds more."""
        if lease.held_tokens + lease.computed_tokens < len(tokens):
            options: dict[str, Any] = {"n_outputs": 0, "logits": False, "progress": progress}
            self.within_memory(lambda: self._session.eval(tokens, seq_id=lease.seq_id, **options))
            lease.computed_tokens = len(tokens) - lease.held_tokens

    def _copy_head(self, source: Slot, head: list[int], *, to_file: bool, to_slot: bool) -> None:
        """Copy the head to another slot, to stay there or only to be saved from there."""
        spare = self._victim_for_head() if to_slot else self._victim()
        if spare is None or (not to_slot and self._session.seq_length(spare.seq_id) > 0):
            return
        self._session.seq_cp(source.seq_id, spare.seq_id)
        self._session.seq_rm(spare.seq_id, len(head))
        whole = self._session.seq_tokens(spare.seq_id) == head
        if whole and to_file:
            self._save(spare, head)
        if not (whole and to_slot):
            self._empty(spare)
            return
        spare.is_head, spare.n_prompt, spare.used = True, len(head), next(self._clock)

    def _victim_for_head(self) -> Slot | None:
        """Half of the slots at most are heads; beyond that a new one takes an older one's place."""
        heads = [slot for slot in self._slots if slot.is_head and not slot.leases]
        if len(heads) >= max(len(self._slots) // 2, 1):
            return min(heads, key=lambda slot: slot.used)
        return self._victim()

    def _outgrows_window(self, n_prompt: int) -> bool:
        """Whether the sequence may soon be too long to be cut back. Until then cutting is as good as a copy."""
        return 0 < self._n_swa < 2 * n_prompt and len(self._slots) > 1

    def _has_head(self, head: list[int]) -> bool:
        """Whether a head is kept that is as good as this one."""
        for slot in self._slots:
            held = self._session.seq_tokens(slot.seq_id) if slot.is_head else []
            if len(head) - self._min_tokens < len(held) <= len(head) and head[: len(held)] == held:
                slot.used = next(self._clock)
                return True
        return False

    def _save(self, slot: Slot, head: list[int]) -> None:
        """Write a slot that holds the head and nothing else to the folder, unless it would not fit there anyway."""
        if self._store is None or self._session.seq_tokens(slot.seq_id) != head:
            return
        kv_bytes = sum(use.size for use in self._session.memory() if use.what in {"kv", "kv-reserved"})
        if kv_bytes * len(head) // max(self._session.n_ctx, 1) > self._store.max_bytes:
            return
        self._store.save(head, lambda path: self._session.save_state(path, slot.seq_id))


def _n_seq_max(session: Session) -> int:
    for seq_id in range(MAX_SEQUENCES):
        try:
            session.seq_length(seq_id)
        except ArgumentError:
            return seq_id
    return MAX_SEQUENCES
