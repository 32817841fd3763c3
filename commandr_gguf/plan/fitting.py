"""Whether a model fits in what is free, and the nearest choice of options that does."""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from commandr_gguf.devices import MemoryUse, devices
from commandr_gguf.errors import OutOfMemoryError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams
from commandr_gguf.memory import kv_cache_bytes
from commandr_gguf.params import CACHE_PAIRS
from commandr_gguf.plan import host
from commandr_gguf.plan.needs import MAPPED, held, measure
from commandr_gguf.workers import worker_devices

LEAST_CONTEXT = 1024
FAR_TOO_LONG = 8
CARD_RESERVE = 512 << 20
"""Bytes of a card's or worker's memory that a plan leaves free, for what drivers and products take beside ggml's
buffers. An assumption, and one that CUDA needs: where it has no memory for a product it ends the process."""
GIB = 1 << 30

logger = logging.getLogger("commandr_gguf.plan")


@dataclass(frozen=True)
class Lack:
    """A device whose memory is too small."""

    device: str
    needed: int
    """Bytes."""
    available: int
    """Bytes."""
    parts: dict[str, int]
    """What is needed by what it is for."""

    def __str__(self) -> str:
        listed = ", ".join(f"{what} {_gib(size)}" for what, size in self.parts.items() if size)
        return f"{_gib(self.needed)} of memory on {self.device} ({listed}), and {_gib(self.available)} are free"


def free_memory(rpc: str | Sequence[str] | None = None) -> dict[str, int]:
    """Bytes that a model may take, by device, those of workers included; an igpu takes its own from the host's."""
    on_host = host.available_memory()
    free = {}
    for device in [*devices(), *(worker_devices(rpc) if rpc else [])]:
        if device.type == "gpu":
            free[device.name] = device.memory_free
        elif device.type != "accel":
            free[device.name] = on_host if device.type == "cpu" else min(on_host, device.memory_free)
    return free


def lacks(uses: Iterable[MemoryUse], free: Mapping[str, int]) -> list[Lack]:
    """The devices on which these uses are more than what is free; the host has to hold those of its igpus as well."""
    uses = list(uses)
    present = devices()
    on_host = next((device.name for device in present if device.type == "cpu"), None)
    inside = {device.name for device in present if device.type == "igpu"}
    if on_host and any(use.device in inside for use in uses):
        uses += [replace(use, device=on_host) for use in uses if use.device in inside]
    found = []
    for device in dict.fromkeys(use.device for use in uses):
        needed = held(uses, device)
        if needed > free.get(device, needed):
            parts: dict[str, int] = {}
            for use in uses:
                if use.device == device and use.what not in MAPPED:
                    what = use.what if use.what in ("kv", "compute") else "weights"
                    parts[what] = parts.get(what, 0) + use.size
            found.append(Lack(device, needed, free[device], parts))
    return found


def check_fits(file: GGUFFile, loading: Mapping[str, Any], session: Mapping[str, Any] | None = None) -> None:
    """Refuse what cannot be allocated, before anything is read.

    Args:
        file: the model.
        loading: arguments of `Model`.
        session: arguments of `Session`; None for the weights alone.

    Raises:
        OutOfMemoryError: with what is needed and free, and in its `fitting` the changes that would make it fit.
        CommandRError: what loading would raise.
    """
    free = free_memory(loading.get("rpc"))
    uses = [] if _is_far_too_long(file, session, free) else measure(file, loading, session)
    found = lacks(uses, free) if uses else [_cache_alone(file, session or {}, free)]
    if not found:
        _warn(file.path, uses, free)
        return
    changes = nearest(file, loading, session, free)
    if changes is None:
        hint = "no choice of options fits"
    else:
        hint = "this fits: " + ", ".join(f"{name}={value!r}" for name, value in changes.items())
    raise OutOfMemoryError(f"{file.path} needs {'; '.join(map(str, found))}; {hint}", fitting=changes)


def check_weights(path: str | os.PathLike[str], loading: Mapping[str, Any]) -> None:
    """`check_fits` for the weights alone; the header is read only when the size of the file leaves doubt."""
    is_part = re.search(r"-\d{5}-of-\d{5}\.gguf$", os.fspath(path)) is not None
    try:
        n_bytes = Path(path).stat().st_size
    except (OSError, TypeError, ValueError):
        return  # loading says why
    if is_part or loading.get("n_gpu_layers", 0) or n_bytes > host.available_memory():
        with GGUFFile(path) as file:
            check_fits(file, loading)


def nearest(
    file: GGUFFile, loading: Mapping[str, Any], session: Mapping[str, Any] | None, free: Mapping[str, int]
) -> dict[str, Any] | None:
    """The arguments to change, as few and as little as it takes; None when nothing helps."""
    layers = HParams.from_gguf(file).n_layer + 1
    n_gpu_layers = loading.get("n_gpu_layers", 0)
    n_gpu_layers = layers if n_gpu_layers < 0 else min(n_gpu_layers, layers)
    for repack, gpu_layers in itertools.product(
        dict.fromkeys((loading.get("repack", True), False)), dict.fromkeys(_fewer(n_gpu_layers))
    ):
        changed: dict[str, Any] = {}
        if gpu_layers != n_gpu_layers:
            changed["n_gpu_layers"] = gpu_layers
        if repack != loading.get("repack", True):
            changed |= {"repack": False} | ({"cache_packed": False} if loading.get("cache_packed") else {})
        elsewhere = gpu_layers > 0 or bool(loading.get("rpc"))
        for smaller in [{}] if session is None else _smaller_sessions(file, session, equal_types=elsewhere):
            of_session = None if session is None else {**session, **smaller}
            if _is_far_too_long(file, of_session, free):
                continue
            if not lacks(measure(file, {**loading, **changed}, of_session), free):
                return {**smaller, **changed}
    return None


def _smaller_sessions(file: GGUFFile, session: Mapping[str, Any], *, equal_types: bool) -> Iterator[dict[str, Any]]:
    """Changes of the session in the order of what they take away: precision of the cache, then half the context."""
    hparams = HParams.from_gguf(file)
    n_ctx = session.get("n_ctx", 0) or hparams.n_ctx_train

    def size(type_k: str, type_v: str) -> int:
        return kv_cache_bytes(hparams, LEAST_CONTEXT, type_k=type_k, type_v=type_v)

    smaller_types: list[dict[str, str]] = [{}]
    if hparams.head_dim % 32 == 0 and session.get("flash_attn") is not False:
        wanted = size(session.get("type_k", "f16"), session.get("type_v", "f16"))
        pairs = [pair for pair in CACHE_PAIRS if size(*pair) < wanted and (pair[0] == pair[1] or not equal_types)]
        smaller_types += [{"type_k": type_k, "type_v": type_v} for type_k, type_v in pairs]
    asked = n_ctx
    while n_ctx == asked or n_ctx >= LEAST_CONTEXT:
        for change in smaller_types:
            yield ({} if n_ctx == asked else {"n_ctx": n_ctx}) | change
        n_ctx = min(n_ctx // 2, hparams.n_ctx_train)


def _cache_bytes(file: GGUFFile, session: Mapping[str, Any]) -> int:
    hparams = HParams.from_gguf(file)
    sizes = {name: session[name] for name in ("n_seq_max", "n_ubatch", "type_k", "type_v") if name in session}
    return kv_cache_bytes(hparams, session.get("n_ctx") or hparams.n_ctx_train, **sizes)


def _is_far_too_long(file: GGUFFile, session: Mapping[str, Any] | None, free: Mapping[str, int]) -> bool:
    """Whether the cache alone is many times all memory: laying that out would take memory and time by itself."""
    return session is not None and _cache_bytes(file, session) > FAR_TOO_LONG * sum(free.values())


def _cache_alone(file: GGUFFile, session: Mapping[str, Any], free: Mapping[str, int]) -> Lack:
    size = _cache_bytes(file, session)
    return Lack(" and ".join(free), size, sum(free.values()), {"kv": size})


def _fewer(n_gpu_layers: int) -> Iterator[int]:
    for eighths in range(8, -1, -1):
        yield n_gpu_layers * eighths // 8


def _warn(path: str, uses: Iterable[MemoryUse], free: Mapping[str, int]) -> None:
    """Cards need some memory beside; and mapped weights may be more than memory, and are read again and again then."""
    uses = list(uses)
    for card in devices():
        if card.type == "gpu" and (used := held(uses, card.name)):
            left = card.memory_free - used
            if left < CARD_RESERVE:
                logger.warning(
                    "%s: %s are left on %s for what its driver and its products take, which may be too little",
                    path, _gib(left), card.name,
                )  # fmt: skip
    for device in dict.fromkeys(use.device for use in uses):
        mapped = sum(use.size for use in uses if use.device == device and use.what in MAPPED)
        left = free.get(device, 0) - held(uses, device)
        # Behind a head on a device, of the mapped embedding only single rows are read: that is no reason to warn.
        if mapped > left and len({use.device for use in uses}) == 1:
            logger.warning(
                "%s: %s of weights are read from the file, and %s of memory are left for them: it will be slow",
                path, _gib(mapped), _gib(max(0, left)),
            )  # fmt: skip


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / GIB:.2f} GiB"
