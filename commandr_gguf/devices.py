"""What the machine has: devices of ggml's backends, cores and memory bandwidth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import check, int32

_TYPES = {
    lib.COMMANDR_DEVICE_CPU: "cpu",
    lib.COMMANDR_DEVICE_GPU: "gpu",
    lib.COMMANDR_DEVICE_IGPU: "igpu",
    lib.COMMANDR_DEVICE_ACCEL: "accel",
}


@dataclass(frozen=True)
class Device:
    """A device that a ggml backend offers."""

    name: str
    """As ggml names it, such as "CPU" or "CUDA0"."""
    description: str
    features: str
    """Of its backend, such as "AVX2 OPENMP"; "" when it names none."""
    type: str
    """cpu, gpu (with memory of its own), igpu (in the host's memory) or accel (beside the CPU)."""
    memory_free: int
    """Bytes."""
    memory_total: int
    """Bytes."""


@dataclass(frozen=True)
class MemoryUse:
    """Memory that a model or session holds in one place for one purpose."""

    device: str
    what: str
    """mapped (in place in the file), packed (for our products), packed-mapped (the same, in place in the file that
    `cache_packed` keeps), repacked (for ggml's), weights, kv, kv-reserved (what that may grow by), compute, output."""
    size: int
    """Bytes."""


def devices() -> list[Device]:
    """All devices, the same as `commandr devices` prints."""
    info = ffi.new("commandr_device_info *")
    found = []
    for index in range(lib.commandr_device_count()):
        check(lib.commandr_device_get(index, info))
        found.append(device_of(info))
    return found


def device_of(info: Any) -> Device:
    """A commandr_device_info."""
    return Device(
        name=_text(info.name),
        description=_text(info.description),
        features=_text(info.features),
        type=_TYPES.get(info.type, "unknown"),
        memory_free=info.memory_free,
        memory_total=info.memory_total,
    )


def default_n_threads() -> int:
    """Physical cores that this process may use, cgroup limits respected; at least 1."""
    return int(lib.commandr_default_n_threads())


def read_bandwidth(n_threads: int = 0, n_bytes: int = 1 << 30) -> float:
    """Bytes per second that `n_threads` (0 = the default) together read from memory; 0 when it cannot be measured."""
    return float(lib.commandr_read_bandwidth(n_threads or default_n_threads(), n_bytes))


@dataclass(frozen=True)
class DeviceSpeed:
    """What was measured on a device, with ggml's products of Q8_0 weights."""

    read: float
    """Bytes of weights that a product with one column reads in a second."""
    compute: float
    """Operations of a product with 512 columns in a second; a multiplication and an addition are two."""
    send: float
    """Bytes that reach the device in a second."""
    latency: float
    """Seconds for a number there and back."""


def device_speed(index: int = 0, *, workers: str = "", n_threads: int = 0) -> DeviceSpeed:
    """Measure a device, which takes a second and 220 MiB of its memory.

    Args:
        index: in `devices()`, or with workers in `worker_devices(workers)`.
        workers: as `worker_list` gives them; "" for the devices of this machine.
        n_threads: of a CPU; 0 = the default.

    Raises:
        ArgumentError: there is no such device.
        BackendError, OutOfMemoryError: it cannot be measured.
    """
    speed = ffi.new("commandr_device_speed *")
    endpoints = ffi.new("char[]", workers.encode()) if workers else ffi.NULL
    check(lib.commandr_device_measure(endpoints, index, int32("n_threads", n_threads), speed))
    return DeviceSpeed(speed.read, speed.compute, speed.send, speed.latency)


def memory_uses(function: Any, pointer: Any) -> list[MemoryUse]:
    """All lines of commandr_model_memory or commandr_session_memory."""
    info = ffi.new("commandr_memory_info *")
    uses: list[MemoryUse] = []
    while function(pointer, len(uses), info) == lib.COMMANDR_OK:
        uses.append(MemoryUse(_text(info.device), _text(info.what), info.size))
    return uses


def _text(pointer: Any) -> str:
    text: bytes = ffi.string(pointer)
    return text.decode("utf-8", "replace")
