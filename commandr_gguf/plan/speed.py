"""How fast the places of this machine are, measured in about a second: reading memory, and the products of a prompt."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from commandr_gguf.devices import device_speed, devices, read_bandwidth
from commandr_gguf.errors import BackendError, OutOfMemoryError
from commandr_gguf.model import Model
from commandr_gguf.plan.hollow import write_hollow
from commandr_gguf.plan.places import Place
from commandr_gguf.plan.shapes import SHAPES
from commandr_gguf.session import Session
from commandr_gguf.workers import worker_list

_READ_BYTES = 512 << 20  # more than a processor's caches hold
_N_TOKENS = 256
PROBE = replace(
    SHAPES["command-r-08-2024"], n_layer=1, n_embd=2048, n_ff=8192, n_head=16, n_head_kv=4, n_vocab=256, n_ctx_train=512
)
"""The shape that is timed: one layer of 61 million weights."""
_FLOPS = 2 * (PROBE.n_embd * 2 * (PROBE.n_head + PROBE.n_head_kv) * 128 + 3 * PROBE.n_embd * PROBE.n_ff)
"""Operations of a token."""


def measured(
    places: Sequence[Place], file_type: str, n_threads: int = 0, rpc: str | Sequence[str] | None = None
) -> list[Place]:
    """The places with the speeds that were measured instead of assumed; described ones as they are.

    The host's reading is measured with threads that sum up half a gigabyte, a card's with a product of one column; what
    computes a prompt with one layer of 61 million weights that are zero, of the given file type, on each device.
    Workers compute products of ggml's.
    """
    with tempfile.TemporaryDirectory(prefix="commandr-speed-") as folder:
        path = Path(folder) / "probe.gguf"
        write_hollow(path, PROBE, file_type)
        found, n_gpus, n_workers = [], 0, 0
        for place in places:
            if not place.is_present:
                found.append(place)
                continue
            if place.kind == "worker":
                found.append(_worker(place, worker_list(rpc), n_workers))
                n_workers += 1
                continue
            gpu = -1 if place.kind == "cpu" else n_gpus
            n_gpus += place.kind == "gpu"
            try:
                compute = _prompt_rate(path, gpu, n_threads)
                place = replace(place, compute=compute, compute_source="measured")  # noqa: PLW2901
            except (BackendError, OutOfMemoryError):
                if place.kind == "cpu":
                    raise
                # A card that is nearly full: what is assumed of it stays.
            rate = read_bandwidth(n_threads, _READ_BYTES) if place.kind == "cpu" else _card_reads(place)
            if rate:
                place = replace(place, read=rate, read_source="measured")  # noqa: PLW2901
            found.append(place)
        return found


def _worker(place: Place, workers: str, number: int) -> Place:
    speed = device_speed(number, workers=workers)
    # The product with one column waits for its answer, as an evaluation does: that is counted by itself.
    return replace(
        place,
        read=speed.read,
        read_source="measured",
        compute=speed.compute,
        compute_source="measured",
        link=speed.send,
        latency=speed.latency,
    )


def _card_reads(place: Place) -> float:
    """Bytes per second; 0 where there is no memory left to measure it in."""
    index = [device.name for device in devices()].index(place.name)
    try:
        return device_speed(index).read
    except (BackendError, OutOfMemoryError):
        return 0.0


def _prompt_rate(path: Path, gpu: int, n_threads: int) -> float:
    """Operations per second of a prompt, the best of three; gpu: the number of the card, -1 for the host."""
    on_gpu: dict[str, Any] = {} if gpu < 0 else {"n_gpu_layers": -1, "main_device": gpu}
    with (
        Model(path, n_threads=n_threads, **on_gpu) as model,
        Session(model, n_ctx=2 * _N_TOKENS, n_ubatch=_N_TOKENS, n_outputs=_N_TOKENS, n_threads=n_threads) as session,
    ):
        best = float("inf")
        for _ in range(3):
            session.seq_rm(0)
            started = time.perf_counter()
            session.eval([5] * _N_TOKENS, n_outputs=_N_TOKENS, hidden=True, logits=False)  # else the layer is cut short
            best = min(best, time.perf_counter() - started)
    return _FLOPS * _N_TOKENS / best
