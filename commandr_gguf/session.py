"""Sessions: one KV cache, the sequences in it and the outputs of the last evaluation."""

from __future__ import annotations

import array
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf._native import ffi, lib
from commandr_gguf.callbacks import Callback
from commandr_gguf.devices import MemoryUse, memory_uses
from commandr_gguf.errors import ArgumentError, ClosedError, CommandRError, check, flag, int32, integer
from commandr_gguf.gguf_file import encode_path
from commandr_gguf.memory import cache_type
from commandr_gguf.model import Model
from commandr_gguf.sampling import Logprobs, Sampler, logprobs

Tokens = Sequence[int] | npt.NDArray[np.integer[Any]]
"""Token ids. An array of 32-bit integers (`array("i")` or numpy int32) is used in place, without a copy."""

Progress = Callable[[int, int], object]
"""Called with the tokens computed and to compute; returning False cancels the evaluation."""


@dataclass(frozen=True)
class EvalItem:
    """What one sequence shall hold, and how many outputs are wanted."""

    tokens: Tokens
    """All tokens of the sequence, at least one; the position of tokens[i] is i."""
    seq_id: int = 0
    n_outputs: int = 1
    """Outputs for the last n_outputs positions, 0 to len(tokens)."""


@dataclass(frozen=True)
class NextToken:
    """What `Session.next_token` returns."""

    token: int | None
    """None without a sampler."""
    logprobs: Logprobs | None
    n_reused: int
    """Tokens that the sequence held already."""


class Session:
    """The mutable side of a model: what its sequences hold.

    A session is told what a sequence shall hold, from its first token to its last; it computes only what follows the
    longest prefix that it holds already. Calls from several threads take turns; only `cancel` does not wait. A session
    keeps its model's weights alive. Close it, or use it in a `with` statement.

    Args:
        model: the weights.
        n_ctx: KV cells, shared by all sequences; 0 = the model's context length, which may need much memory.
        n_batch: most outputs of one evaluation, all items together.
        n_ubatch: most tokens in one graph.
        n_outputs: most outputs in one graph; 0 = 64.
        n_seq_max: sequences, 1 to 64.
        n_threads: CPU threads; 0 = the physical cores that this process may use.
        type_k: type of the K cache: f32, f16, bf16, q8_0 or q4_0.
        type_v: type of the V cache; quantized ones need flash attention.
        flash_attn: None = where every device in use has it.
        progress: called after each graph and about every 50 ms inside one that runs on the CPU.
    """

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int = 0,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        n_outputs: int = 0,
        n_seq_max: int = 1,
        n_threads: int = 0,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: bool | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.model = model
        self._n_vocab = model.hparams.n_vocab
        self._n_embd = model.hparams.n_embd
        self.progress = progress
        self._callback = Callback(None)
        self._handle = ffi.new_handle(self._callback)
        self._turn = threading.Lock()
        self._turn_of: int | None = None
        self._alive = threading.Lock()
        self._items: list[int] = []
        params = lib.commandr_session_default_params()
        params.n_ctx = integer("n_ctx", n_ctx, 0)
        params.n_batch = int32("n_batch", n_batch)
        params.n_ubatch = int32("n_ubatch", n_ubatch)
        params.n_outputs = int32("n_outputs", n_outputs)
        params.n_seq_max = int32("n_seq_max", n_seq_max)
        params.n_threads = int32("n_threads", n_threads)
        params.type_k = cache_type("type_k", type_k)
        params.type_v = cache_type("type_v", type_v)
        params.flash_attn = -1 if flash_attn is None else int(flag("flash_attn", flash_attn))
        params.progress = lib.commandr_py_on_eval
        params.progress_user_data = self._handle
        out = ffi.new("commandr_session **")
        check(lib.commandr_session_init(model.pointer, params, out))
        self._pointer: Any = out[0]
        self._finalizer = weakref.finalize(self, lib.commandr_session_free, out[0])

    # ---- evaluation

    def eval(
        self,
        tokens: Tokens,
        *,
        seq_id: int = 0,
        n_outputs: int = 1,
        logits: bool = True,
        hidden: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Make one sequence hold `tokens` and compute the outputs for its last `n_outputs` positions.

        See `eval_batch` for errors and the state they leave.
        """
        self.eval_batch([EvalItem(tokens, seq_id, n_outputs)], logits=logits, hidden=hidden, progress=progress)

    def eval_batch(
        self,
        items: Sequence[EvalItem],
        *,
        logits: bool = True,
        hidden: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Make each item's sequence hold its tokens and compute the outputs, all items in common graphs.

        Ctrl-C, an exception in `progress` and `cancel` stop it within about 50 ms; the sequences then hold a prefix of
        their items, so that the same call goes on where this one stopped. Other errors that the arguments cause leave
        all sequences as they were. In every such case no outputs are held.

        Args:
            items: each sequence at most once.
            logits: compute logits.
            hidden: compute hidden states.
            progress: instead of the session's.

        Raises:
            ContextFullError: the tokens do not fit in n_ctx.
            CancelledError: `cancel` was called or `progress` returned False.
            ArgumentError, BackendError, OutOfMemoryError
        """
        outputs = (lib.COMMANDR_OUTPUT_LOGITS if logits else 0) | (lib.COMMANDR_OUTPUT_HIDDEN if hidden else 0)
        with self._use() as pointer:
            self._eval(pointer, items, outputs, progress)

    def next_token(
        self,
        tokens: Tokens,
        sampler: Sampler | None,
        *,
        seq_id: int = 0,
        mask: npt.NDArray[np.uint32] | None = None,
        top_logprobs: int | None = None,
        progress: Progress | None = None,
    ) -> NextToken:
        """Make one sequence hold `tokens` and pick the token after them, with no other thread's call in between.

        This is how several threads generate with one session, each in a sequence of its own.

        Args:
            tokens: see `eval`; the errors and the state they leave are those of `eval_batch`.
            sampler: None computes and picks nothing.
            seq_id: the sequence.
            mask: see `Sampler.sample`.
            top_logprobs: see `sample`.
            progress: instead of the session's.
        """
        with self._use() as pointer:
            self._eval(pointer, [EvalItem(tokens, seq_id)], lib.COMMANDR_OUTPUT_LOGITS, progress)
            n_reused = int(lib.commandr_session_n_reused(pointer, 0))
            if sampler is None:
                return NextToken(None, None, n_reused)
            return NextToken(*self._sample(pointer, sampler, tokens, 0, mask, top_logprobs), n_reused)

    def _eval(self, pointer: Any, items: Sequence[EvalItem], outputs: int, progress: Progress | None) -> None:
        c_items = ffi.new("commandr_eval_item[]", len(items))
        buffers = []  # keeps the arrays alive that the items point to
        for c_item, item in zip(c_items, items, strict=True):
            buffer = _token_buffer(item.tokens)
            buffers.append(buffer)
            c_item.tokens = buffer
            c_item.n_tokens = len(buffer)
            c_item.seq_id = int32("seq_id", item.seq_id)
            c_item.n_outputs = integer("n_outputs", item.n_outputs)
        self._items = []
        self._callback.function = progress or self.progress
        try:
            status = lib.commandr_session_eval(pointer, c_items, len(items), outputs)
        finally:
            self._callback.function = None
            for buffer in buffers:
                ffi.release(buffer)  # an array("i") can grow again
        self._callback.reraise()
        check(status)
        self._items = [item.n_outputs for item in items]

    def logits(self, item: int = 0) -> npt.NDArray[np.float32]:
        """A copy of an item's logits of the last evaluation, [n_outputs, n_vocab]; the last row is the last token's."""
        return self._outputs(lib.commandr_session_logits, item, self._n_vocab)

    def hidden(self, item: int = 0) -> npt.NDArray[np.float32]:
        """A copy of an item's normalized hidden states of the last evaluation, [n_outputs, n_embd]."""
        return self._outputs(lib.commandr_session_hidden, item, self._n_embd)

    def sample(
        self,
        sampler: Sampler,
        history: Tokens,
        *,
        item: int = 0,
        mask: npt.NDArray[np.uint32] | None = None,
        top_logprobs: int | None = None,
    ) -> tuple[int, Logprobs | None]:
        """Pick the token after an item's last one, from the logits of the last evaluation and without a copy of them.

        Where several threads use the session, the last evaluation may be another thread's: see `next_token`.

        Args:
            sampler: with its parameters and random stream.
            history: the tokens so far, for the penalties.
            item: of the last evaluation.
            mask: of the allowed tokens, see `Sampler.sample`.
            top_logprobs: also return the token's log-probability and those of this many most likely ones.
        """
        with self._use() as pointer:
            return self._sample(pointer, sampler, history, int32("item", item), mask, top_logprobs)

    def _sample(
        self,
        pointer: Any,
        sampler: Sampler,
        history: Tokens,
        item: int,
        mask: npt.NDArray[np.uint32] | None,
        top_logprobs: int | None,
    ) -> tuple[int, Logprobs | None]:
        buffer = _token_buffer(history)
        row = ffi.NULL
        if 0 <= item < len(self._items) and self._items[item] > 0:
            row = lib.commandr_session_logits(pointer, item, self._items[item] - 1)
        try:
            if not row:
                raise ArgumentError(f"the last evaluation computed no logits for item {item}")
            token = sampler.sample(row, buffer, len(buffer), mask)
        finally:
            ffi.release(buffer)
        return token, None if top_logprobs is None else logprobs(row, self._n_vocab, token, top_logprobs)

    def n_reused(self, item: int = 0) -> int:
        """Tokens of an item that the last evaluation did not need to compute."""
        with self._use() as pointer:
            return int(lib.commandr_session_n_reused(pointer, int32("item", item)))

    def _outputs(self, function: Any, item: int, width: int) -> npt.NDArray[np.float32]:
        item = int32("item", item)
        with self._use() as pointer:
            n_rows = self._items[item] if 0 <= item < len(self._items) else 0
            rows = function(pointer, item, 0) if n_rows else ffi.NULL
            if not rows:
                raise ArgumentError(f"the last evaluation computed no such outputs for item {item}")
            result = np.empty((n_rows, width), dtype=np.float32)
            ffi.memmove(result, rows, result.nbytes)
            return result

    # ---- sequences

    def seq_rm(self, seq_id: int, n_keep: int = 0) -> None:
        """Forget positions >= n_keep of a sequence."""
        with self._change() as pointer:
            check(lib.commandr_session_seq_rm(pointer, int32("seq_id", seq_id), integer("n_keep", n_keep)))

    def seq_cp(self, src: int, dst: int) -> None:
        """Make sequence `dst` hold what `src` holds, sharing its cells."""
        with self._change() as pointer:
            check(lib.commandr_session_seq_cp(pointer, int32("src", src), int32("dst", dst)))

    def seq_keep(self, seq_id: int) -> None:
        """Forget every other sequence."""
        with self._change() as pointer:
            check(lib.commandr_session_seq_keep(pointer, int32("seq_id", seq_id)))

    def seq_length(self, seq_id: int = 0) -> int:
        """Tokens that a sequence holds."""
        with self._use() as pointer:
            return self._length(pointer, seq_id)

    def seq_tokens(self, seq_id: int = 0) -> list[int]:
        """The tokens that a sequence holds."""
        with self._use() as pointer:
            n = self._length(pointer, seq_id)
            return ffi.unpack(lib.commandr_session_seq_tokens(pointer, seq_id), n) if n else []

    def save_state(self, path: str | os.PathLike[str], seq_id: int = 0) -> None:
        """Write a sequence's tokens and KV rows to a file; an existing one is replaced at the end."""
        with self._use() as pointer:
            check(lib.commandr_session_state_save(pointer, int32("seq_id", seq_id), encode_path(path)))

    def load_state(self, path: str | os.PathLike[str], seq_id: int = 0) -> None:
        """Make a sequence hold what `save_state` wrote, in a session of the same model and cache types.

        Raises:
            FormatError: the file belongs to another model or cache type, or is damaged. The sequence is as it was when
                the file's header was refused, else empty.
        """
        with self._change() as pointer:
            check(lib.commandr_session_state_load(pointer, int32("seq_id", seq_id), encode_path(path)))

    @staticmethod
    def _length(pointer: Any, seq_id: int) -> int:
        n = int(lib.commandr_session_seq_length(pointer, int32("seq_id", seq_id)))
        if n < 0:
            raise ArgumentError(f"there is no sequence {seq_id}")
        return n

    # ---- the session itself

    @property
    def n_ctx(self) -> int:
        """KV cells, shared by all sequences."""
        with self._use() as pointer:
            return int(lib.commandr_session_n_ctx(pointer))

    @property
    def n_free(self) -> int:
        """KV cells in use by no sequence."""
        with self._use() as pointer:
            return int(lib.commandr_session_n_free(pointer))

    def memory(self) -> list[MemoryUse]:
        """Bytes of cache and compute buffers by place."""
        with self._use() as pointer:
            return memory_uses(lib.commandr_session_memory, pointer)

    def cancel(self, cancelled: bool = True) -> None:
        """Stop the running evaluation, and those to come until `cancel(False)`, with CancelledError. From any thread.

        Nothing else lifts it: `generate` too ends at once, with the finish reason "cancelled", until `cancel(False)`.
        To stop one generation and no other, use `GenerationStream.cancel`.
        """
        with self._alive:
            if self._pointer is None:
                raise ClosedError("the session was closed")
            lib.commandr_session_cancel(self._pointer, cancelled)

    @property
    def closed(self) -> bool:
        """Whether close() was called. Does not wait."""
        return self._pointer is None

    def close(self) -> None:
        """Stop what runs in other threads and free the cache. Calling it again does nothing."""
        if self._turn_of == threading.get_ident():
            raise CommandRError("a session cannot be closed from its own progress function")
        with self._alive:
            if self._pointer is not None:
                lib.commandr_session_cancel(self._pointer, True)
        with self._turn, self._alive:
            self._pointer = None
            self._finalizer()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _use(self) -> Iterator[Any]:
        """The native handle, for one thread at a time."""
        if self._turn_of == threading.get_ident():
            raise CommandRError("a session cannot be used from its own progress function")
        with self._turn:
            if self._pointer is None:
                raise ClosedError("the session was closed")
            try:
                self._turn_of = threading.get_ident()
                yield self._pointer
            finally:
                self._turn_of = None

    @contextmanager
    def _change(self) -> Iterator[Any]:
        with self._use() as pointer:
            self._items = []
            yield pointer


def _token_buffer(tokens: Tokens) -> Any:
    if isinstance(tokens, np.ndarray):
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise ArgumentError("tokens must be a sequence of integers")
        if tokens.dtype != np.int32 and tokens.size and (tokens.min() < -(2**31) or tokens.max() >= 2**31):
            raise ArgumentError("a token id does not fit in 32 bits")
        return ffi.from_buffer("int32_t[]", np.ascontiguousarray(tokens, dtype=np.int32))
    if isinstance(tokens, (str, bytes, bytearray, memoryview)):
        raise ArgumentError(f"tokens must be a sequence of token ids, not {type(tokens).__name__}")
    if isinstance(tokens, array.array) and tokens.typecode == "i" and tokens.itemsize == 4:
        return ffi.from_buffer("int32_t[]", tokens)
    try:
        return ffi.new("int32_t[]", list(tokens))
    except (TypeError, OverflowError) as error:
        raise ArgumentError(f"tokens must be a sequence of token ids: {error}") from None
