"""Bytes that a model and a session would take, from a file's header.

The native library lays the weights, the cache and the graphs out as it does in earnest, over empty buffers: what is
measured is what will be allocated. Only for devices that are not there, the shares of single layers are added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from commandr_gguf._native import ffi, lib
from commandr_gguf.devices import MemoryUse
from commandr_gguf.errors import check
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams
from commandr_gguf.memory import kv_cache_bytes
from commandr_gguf.params import model_params, session_params

_MAX_PLACES = 256
MAPPED = ("mapped", "packed-mapped")
"""Where the system may drop pages and read them again from the file."""


def measure(
    file: GGUFFile, model: Mapping[str, Any] | None = None, session: Mapping[str, Any] | None = None
) -> list[MemoryUse]:
    """What `Model.memory()` and `Session.memory()` would say, with nothing loaded.

    Args:
        file: the model.
        model: arguments of `Model`, without its path and progress.
        session: arguments of `Session`; None leaves it out.

    Raises:
        FormatError, UnsupportedError, ArgumentError, BackendError: those of loading.
    """
    c_model, _split = model_params(**(model or {}))
    c_session = ffi.NULL if session is None else session_params(**session)
    n = ffi.new("int64_t *", _MAX_PLACES)
    found = ffi.new("commandr_memory_info[]", _MAX_PLACES)
    check(lib.commandr_gguf_measure(file.pointer, c_model, c_session, found, n))
    return [MemoryUse(_text(use.device), _text(use.what), int(use.size)) for use in found[0 : n[0]]]


def held(uses: Iterable[MemoryUse], device: str) -> int:
    """Bytes of a device's memory that nothing but this process's end or a close gives back."""
    return sum(use.size for use in uses if use.device == device and use.what not in MAPPED)


@dataclass(frozen=True)
class Parts:
    """Weights and cache layer by layer, in bytes."""

    head: int
    """The matrix that is embedding and head."""
    layers: tuple[int, ...]
    full_kv: int
    """The cache of a layer without a window."""
    window_kv: int
    """The cache of a layer with one."""
    has_window: tuple[bool, ...]

    def kv(self, layer: int) -> int:
        """The cache of a layer."""
        return self.window_kv if self.has_window[layer] else self.full_kv


def parts(file: GGUFFile, hparams: HParams, *, n_ctx: int, **session: Any) -> Parts:
    """What each layer takes. session: n_seq_max, n_ubatch, type_k and type_v, see `Session`."""
    layers = [0] * hparams.n_layer
    head = 0
    for tensor in file.tensors:
        if tensor.name.startswith("blk."):
            layers[int(tensor.name.split(".")[1])] += tensor.size
        else:
            head += tensor.size
    has_window = tuple(hparams.n_swa > 0 and (i + 1) % hparams.swa_period != 0 for i in range(hparams.n_layer))
    one = replace(hparams, n_layer=1, n_swa=0, swa_period=0)
    full_kv = kv_cache_bytes(one, n_ctx, **session)
    n_window = sum(has_window)
    rest = kv_cache_bytes(hparams, n_ctx, **session) - full_kv * (hparams.n_layer - n_window)
    return Parts(head, tuple(layers), full_kv, rest // n_window if n_window else 0, has_window)


def _text(pointer: Any) -> str:
    text: bytes = ffi.string(pointer)
    return text.decode("utf-8", "replace")
