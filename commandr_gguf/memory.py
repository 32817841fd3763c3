"""What a session will need, from a file's header alone."""

from __future__ import annotations

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import check, integer
from commandr_gguf.hparams import HParams
from commandr_gguf.params import session_params

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
    """Bytes of the KV cache of a session with these parameters, once all its cells have been in use."""
    params = session_params(
        n_ctx=integer("n_ctx", n_ctx, 1), n_seq_max=n_seq_max, n_ubatch=n_ubatch, type_k=type_k, type_v=type_v
    )
    size = ffi.new("int64_t *")
    check(lib.commandr_session_kv_size(hparams.as_c(), params[0], size))
    return int(size[0])


def default_n_ctx(hparams: HParams, *, type_k: str = "f16", type_v: str = "f16") -> int:
    """The context that is kept free on cards: as much as 2 GiB hold, but 4096 to 32768 tokens, at most the model's."""
    least, most = (min(n, hparams.n_ctx_train) for n in DEFAULT_CONTEXT)
    candidates = range(least, most + 1, _STEP)
    fitting = [n for n in candidates if kv_cache_bytes(hparams, n, type_k=type_k, type_v=type_v) <= DEFAULT_CACHE_BYTES]
    return fitting[-1] if fitting else least
