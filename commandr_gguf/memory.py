"""What a session will need, from a file's header alone."""

from __future__ import annotations

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, check, int32
from commandr_gguf.hparams import HParams
from commandr_gguf.quantize import type_find

_STEP = 256  # contexts that differ by less have the same cache
DEFAULT_CACHE_BYTES = 2 << 30
DEFAULT_CONTEXT = (4096, 32768)


def kv_cache_bytes(
    hparams: HParams,
    n_ctx: int,
    *,
    n_seq_max: int = 1,
    n_ubatch: int = 512,
    type_k: str = "f16",
    type_v: str = "f16",
) -> int:
    """Bytes of the KV cache of a session with these parameters."""
    if not 1 <= n_ctx < 2**63:
        raise ArgumentError(f"n_ctx must be 1 or more, not {n_ctx}")
    params = lib.commandr_session_default_params()
    params.n_ctx = n_ctx
    params.n_seq_max = int32("n_seq_max", n_seq_max)
    params.n_ubatch = int32("n_ubatch", n_ubatch)
    params.type_k = type_find(type_k)
    params.type_v = type_find(type_v)
    size = ffi.new("int64_t *")
    check(lib.commandr_session_kv_size(hparams.as_c(), params, size))
    return int(size[0])


def default_n_ctx(hparams: HParams, *, type_k: str = "f16", type_v: str = "f16") -> int:
    """The largest context whose cache fits in 2 GiB, but 4096 to 32768 tokens and at most the model's own."""
    least, most = (min(n, hparams.n_ctx_train) for n in DEFAULT_CONTEXT)
    candidates = range(least, most + 1, _STEP)
    fitting = [n for n in candidates if kv_cache_bytes(hparams, n, type_k=type_k, type_v=type_v) <= DEFAULT_CACHE_BYTES]
    return fitting[-1] if fitting else least
