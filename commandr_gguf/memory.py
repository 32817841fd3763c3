"""What a session will need, from a file's header alone."""

from __future__ import annotations

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, check, int32, integer
from commandr_gguf.hparams import HParams
from commandr_gguf.quantize import type_find

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")


def cache_type(name: str, value: str) -> int:
    """The ggml_type of a K or V cache. Raises ArgumentError with the choices when it is none of CACHE_TYPES."""
    if not isinstance(value, str) or value.lower() not in CACHE_TYPES:
        raise ArgumentError(f"{name} must be one of {', '.join(CACHE_TYPES)}, not {value!r}")
    return type_find(value)


def kv_cache_bytes(
    hparams: HParams,
    n_ctx: int,
    *,
    n_seq_max: int = 1,
    n_ubatch: int = 512,
    type_k: str = "f16",
    type_v: str = "f16",
) -> int:
    """Bytes of the KV cache of a session with these parameters, once all its cells have been in use."""
    params = lib.commandr_session_default_params()
    params.n_ctx = integer("n_ctx", n_ctx, 1)
    params.n_seq_max = int32("n_seq_max", n_seq_max)
    params.n_ubatch = int32("n_ubatch", n_ubatch)
    params.type_k = cache_type("type_k", type_k)
    params.type_v = cache_type("type_v", type_v)
    size = ffi.new("int64_t *")
    check(lib.commandr_session_kv_size(hparams.as_c(), params, size))
    return int(size[0])
