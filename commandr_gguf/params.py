"""The native library's parameters from arguments of Python, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, flag, int32, integer, number
from commandr_gguf.quantize import type_find
from commandr_gguf.workers import worker_list

_WHAT_FITS = -1
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
CACHE_PAIRS = (("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0"))
"""Types of K and V to choose from, the best first: K needs the better one, as tests/bench/kv_types.py measures.

A card may have flash attention for two equal types only: CUDA does, as ggml compiles it.
"""


def cache_type(name: str, value: str) -> int:
    """The ggml_type of a K or V cache. Raises ArgumentError with the choices when it is none of CACHE_TYPES."""
    if not isinstance(value, str) or value.lower() not in CACHE_TYPES:
        raise ArgumentError(f"{name} must be one of {', '.join(CACHE_TYPES)}, not {value!r}")
    return type_find(value)


def model_params(
    *,
    n_gpu_layers: int = 0,
    main_device: int = -1,
    tensor_split: Sequence[float] | None = None,
    use_mmap: bool = True,
    repack: bool = True,
    cache_packed: bool = False,
    rpc: str | Sequence[str] | None = None,
    n_threads: int = 0,
) -> tuple[Any, Any]:
    """A `commandr_model_params *`, see `Model`, and what must live as long."""
    params = ffi.new("commandr_model_params *", lib.commandr_model_default_params())
    params.n_gpu_layers = int32("n_gpu_layers", n_gpu_layers)
    params.main_device = int32("main_device", main_device)
    split = None if tensor_split is None else ffi.new("float[]", _shares(tensor_split))
    if split is not None:
        params.tensor_split = split
        params.n_tensor_split = len(split)
    params.use_mmap = flag("use_mmap", use_mmap)
    params.repack = flag("repack", repack)
    params.cache_packed = flag("cache_packed", cache_packed)
    params.n_threads = int32("n_threads", n_threads)
    endpoints = worker_list(rpc)
    workers = ffi.new("char[]", endpoints.encode()) if endpoints else ffi.NULL
    params.workers = workers
    return params, (split, workers)


def session_params(
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
) -> Any:
    """A `commandr_session_params *`, see `Session`."""
    params = ffi.new("commandr_session_params *", lib.commandr_session_default_params())
    params.n_ctx = _WHAT_FITS if n_ctx is None else integer("n_ctx", n_ctx, 0)
    params.n_batch = int32("n_batch", n_batch)
    params.n_ubatch = int32("n_ubatch", n_ubatch)
    params.n_outputs = int32("n_outputs", n_outputs)
    params.n_seq_max = int32("n_seq_max", n_seq_max)
    params.n_threads = int32("n_threads", n_threads)
    params.type_k = cache_type("type_k", type_k)
    params.type_v = cache_type("type_v", type_v)
    params.flash_attn = -1 if flash_attn is None else int(flag("flash_attn", flash_attn))
    params.imatrix = flag("imatrix", imatrix)
    return params


def _shares(tensor_split: Sequence[float]) -> list[float]:
    if isinstance(tensor_split, (str, bytes)) or not isinstance(tensor_split, Iterable):
        raise ArgumentError(f"tensor_split must be a sequence of numbers, not {tensor_split!r}")
    return [number(f"tensor_split[{i}]", share) for i, share in enumerate(tensor_split)]
