"""Where layers can be: the host, its graphics cards, and what a user describes.

A place is known by its memory and its speeds, whether it is there or not. A worker on another host is one more kind of
place: what a layer needs it as input comes over a link.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from commandr_gguf.devices import devices
from commandr_gguf.errors import ArgumentError
from commandr_gguf.plan.fitting import CARD_RESERVE, free_memory
from commandr_gguf.workers import worker_devices

HOST_RESERVE = 512 << 20
"""Bytes of the host's memory left free: this process's own and a little more."""

HOST_READ = 40e9
GPU_READ = 400e9
"""Bytes per second that are assumed where nothing is measured or given: two channels of DDR5, a mid-range card."""
LINK, LATENCY = 117e6, 0.3e-3
"""A gigabit network, and a message and its answer on it."""
DECODE_SHARE = {"measured": 0.8, "given": 0.65, "assumed": 0.65}
"""What decoding reaches of that speed: 0.77 to 0.83 of what was measured on two AVX2 cores (an 8B shape in Q4_K_M);
makers' figures are further away."""
FLOPS_PER_BYTE = {"cpu": 10.0, "gpu": 40.0, "worker": 10.0}
"""How many operations of a prompt a place is assumed to do in the time that it reads a byte."""

Source = Literal["measured", "given", "assumed"]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True)
class Place:
    """Somewhere that layers can be."""

    name: str
    """A device of ggml's, or what stands for one that is only described."""
    kind: Literal["cpu", "gpu", "worker"]
    memory: int
    """Bytes that a model may take."""
    read: float
    """Bytes of its memory that it can read in a second."""
    compute: float
    """Operations in a second while it reads a prompt; a multiplication and an addition are two."""
    read_source: Source = "assumed"
    compute_source: Source = "assumed"
    is_present: bool = True
    is_inside: bool = False
    """Whether its memory is the host's: an igpu."""
    link: float | None = None
    """Bytes per second between the host and a worker; None for what is in this machine."""
    latency: float = 0.0
    """Seconds that a message to a worker and its answer take on the way."""

    @property
    def decode_read(self) -> float:
        """Bytes per second that decoding gets to read."""
        return self.read * DECODE_SHARE[self.read_source]


def described(kind: Literal["cpu", "gpu"], number: int, memory: int, read: float | None) -> Place:
    """A device that is not there. read: bytes per second, None for an assumption."""
    name, reserve, usual = (
        ("RAM", HOST_RESERVE, HOST_READ) if kind == "cpu" else (f"GPU{number}", CARD_RESERVE, GPU_READ)
    )
    rate = read or usual
    source: Source = "given" if read else "assumed"
    return Place(name, kind, max(0, memory - reserve), rate, rate * FLOPS_PER_BYTE[kind], source, is_present=False)


def present(rpc: str | Sequence[str] | None = None) -> list[Place]:
    """The host, workers and graphics cards with what is free in them, the host first; all speeds are assumed.

    Raises BackendError where a worker does not answer.
    """
    free = free_memory(rpc)
    places: list[Place] = []
    for device in worker_devices(rpc) if rpc else []:
        compute = HOST_READ * FLOPS_PER_BYTE["worker"]
        memory = max(0, free[device.name] - CARD_RESERVE)
        places.append(Place(device.name, "worker", memory, HOST_READ, compute, link=LINK, latency=LATENCY))
    for device in devices():
        if device.type == "cpu":
            memory = max(0, free[device.name] - HOST_RESERVE)
            places.insert(0, Place(device.name, "cpu", memory, HOST_READ, HOST_READ * FLOPS_PER_BYTE["cpu"]))
    # As the library numbers them: discrete cards before integrated ones, which read the host's memory.
    for kind, read in (("gpu", GPU_READ), ("igpu", HOST_READ)):
        for device in devices():
            if device.type == kind:
                compute = read * FLOPS_PER_BYTE["gpu"]
                memory = max(0, free[device.name] - CARD_RESERVE)
                places.append(Place(device.name, "gpu", memory, read, compute, is_inside=kind == "igpu"))
    return places


def parse_bytes(name: str, text: str) -> int:
    """Bytes of "24G", "512M" or "1.5T", which are powers of 1024, or of a plain number.

    Raises ArgumentError, which names the argument; also for less than a megabyte, which nobody means.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if found is None or (size := int(float(found[1]) * _UNITS[found[2].upper()])) < 1:
        raise ArgumentError(f"{name} must be a size such as 24G, not {text!r}")
    if size < _UNITS["M"]:
        raise ArgumentError(f"{name} {text} is {size} bytes: write 24G for gigabytes")
    return size


def parse_rate(name: str, text: str) -> float:
    """Bytes per second of "936G" or "936GB/s", which are powers of 1000: that is how makers state them.

    Raises ArgumentError, which names the argument.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?)\s*([KMGT]?)(?:B(?:/s)?)?", text.strip(), re.IGNORECASE)
    factors = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    if found is None or (rate := float(found[1]) * factors[found[2].upper()]) <= 0:
        raise ArgumentError(f"{name} must be bytes per second such as 936G, not {text!r}")
    return rate
