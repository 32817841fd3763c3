"""The native session behind `Session`: its parameters, its sequences, whose turn it is, and its end."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf._native import ffi, lib
from commandr_gguf.callbacks import Callback
from commandr_gguf.devices import MemoryUse, memory_uses
from commandr_gguf.errors import ArgumentError, ClosedError, CommandRError, check, flag, int32, integer
from commandr_gguf.gguf_file import encode_path
from commandr_gguf.memory import kv_cache_bytes
from commandr_gguf.model import Model
from commandr_gguf.params import session_params
from commandr_gguf.state_file import pack, unpacked

Progress = Callable[[int, int], object]
"""Called with the tokens computed and to compute; returning False cancels the evaluation."""

_DEFAULT_N_OUTPUTS = 64
_SOME_CELLS = 256
_MAX_DRAFT_ROWS = 15
"""From 16 rows on, ggml's kernels round in another way than for one row, and more rows gain little."""


class SessionHandle:
    """All of a session but its evaluations; see `Session` for the arguments."""

    def __init__(
        self,
        model: Model,
        *,
        n_ctx: int | None = 0,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        n_outputs: int = 0,
        n_seq_max: int = 1,
        n_threads: int = 0,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: bool | None = None,
        imatrix: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.model = model
        self._n_vocab = model.hparams.n_vocab
        self._n_embd = model.hparams.n_embd
        self._max_masked = int(lib.commandr_model_max_masked(model.pointer))
        self.computed_by = model.computed_by
        """See `Model.computed_by`."""
        self.progress = progress
        self._callback = Callback(None)
        self._handle = ffi.new_handle(self._callback)
        self._turn = threading.Lock()
        self._turn_of: int | None = None
        self._alive = threading.Lock()
        self._items: list[int] = []
        params = session_params(
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=n_ubatch,
            n_outputs=n_outputs,
            n_seq_max=n_seq_max,
            n_threads=n_threads,
            type_k=type_k,
            type_v=type_v,
            flash_attn=flash_attn,
            imatrix=imatrix,
        )
        params.progress = lib.commandr_py_on_eval
        params.progress_user_data = self._handle
        out = ffi.new("commandr_session **")
        check(lib.commandr_session_init(model.pointer, params[0], out))
        self._pointer: Any = out[0]
        self._finalizer = weakref.finalize(self, lib.commandr_session_free, out[0])
        size = kv_cache_bytes(model.hparams, _SOME_CELLS, type_k=type_k, type_v=type_v)
        self._token_bytes = 4 + size // _SOME_CELLS  # of a state file
        self._n_ctx = int(lib.commandr_session_n_ctx(out[0]))
        n_rows = min(n_outputs or _DEFAULT_N_OUTPUTS, n_ubatch, n_batch, self._n_ctx)
        self.n_draft_max = min(n_rows, _MAX_DRAFT_ROWS) - 1
        """The longest draft that `next_tokens` verifies."""

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

    def save_state(self, path: str | os.PathLike[str], seq_id: int = 0, *, compress: bool = False) -> None:
        """Write a sequence's tokens and KV rows to a file; an existing one is replaced at the end.

        Args:
            path: of the file.
            seq_id: the sequence.
            compress: with zstd, to about 3/4 of the size; it then takes several times as long to save and to load.
        """
        number = int32("seq_id", seq_id)
        if flag("compress", compress):
            pack(lambda raw: self.save_state(raw, number), os.fsdecode(encode_path(path)))
            return
        with self._use() as pointer:
            check(lib.commandr_session_state_save(pointer, number, encode_path(path)))

    def load_state(self, path: str | os.PathLike[str], seq_id: int = 0) -> None:
        """Make a sequence hold what `save_state` wrote, in a session of the same model and cache types.

        Raises:
            FormatError: the file belongs to another model or cache type, or is damaged. The sequence is as it was when
                the file's header was refused, else empty.
        """
        n_ctx, name = self.n_ctx, os.fsdecode(encode_path(path))
        with unpacked(name, n_ctx, self._token_bytes) as raw, self._change() as pointer:
            check(lib.commandr_session_state_load(pointer, int32("seq_id", seq_id), encode_path(raw)))

    @staticmethod
    def _length(pointer: Any, seq_id: int) -> int:
        n = int(lib.commandr_session_seq_length(pointer, int32("seq_id", seq_id)))
        if n < 0:
            raise ArgumentError(f"there is no sequence {seq_id}")
        return n

    # ---- the session itself

    @property
    def n_ctx(self) -> int:
        """Most KV cells, shared by all sequences. Does not wait."""
        if self._pointer is None:
            raise ClosedError("the session was closed")
        return self._n_ctx

    @property
    def n_free(self) -> int:
        """KV cells in use by no sequence."""
        with self._use() as pointer:
            return int(lib.commandr_session_n_free(pointer))

    def imatrix_sums(self, tensor: str, n: int) -> tuple[npt.NDArray[np.float64], int]:
        """What a session with `imatrix` has summed up for a weight matrix.

        Args:
            tensor: the matrix's name in the GGUF file.
            n: its columns.

        Returns:
            The squares of the matrix's inputs [n], summed up over all tokens that this session has computed, and how
            many tokens that were.
        """
        sums = np.empty(n, np.float64)
        n_tokens = ffi.new("int64_t *")
        buffer = ffi.from_buffer("double[]", sums, require_writable=True)
        with self._use() as pointer:
            check(lib.commandr_session_imatrix(pointer, tensor.encode(), buffer, n, n_tokens))
        return sums, int(n_tokens[0])

    def memory(self) -> list[MemoryUse]:
        """Bytes of cache and compute buffers by place.

        "kv" is what the cells that were in use so far have, "kv-reserved" what the others up to n_ctx would take.
        """
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
