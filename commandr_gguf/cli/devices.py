"""The command `commandr devices`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from commandr_gguf.cli.format import size
from commandr_gguf.cli.options import AsJson
from commandr_gguf.devices import Device, default_n_threads, read_bandwidth
from commandr_gguf.devices import devices as all_devices
from commandr_gguf.errors import CommandRError
from commandr_gguf.plan.fitting import free_memory
from commandr_gguf.plan.hollow import hollow_file
from commandr_gguf.plan.needs import measure
from commandr_gguf.plan.speed import PROBE

_READ_BYTES = 512 << 20
_CACHE_TYPES = ("f16", "bf16", "q8_0", "q4_0")
_BACKENDS = {"CUDA": "make ggml-cuda", "Vulkan": "make ggml-vulkan"}


def devices(as_json: AsJson = False) -> None:
    """List what can compute: the CPU and the GPUs that the installed ggml knows, their memory, and what is lacking.

    The CPU's reading of memory is measured, which takes a fraction of a second.

    For example: `commandr devices`
    """
    found = all_devices()
    n_threads = default_n_threads()
    free = free_memory()
    read = read_bandwidth(n_threads, _READ_BYTES)
    lacks = lacking(found)
    if as_json:
        listed = [
            {**asdict(device), "available": free.get(device.name, device.memory_free)}
            | ({"read_bytes_per_second": read} if device.type == "cpu" else {})
            for device in found
        ]
        print(json.dumps({"devices": listed, "n_threads": n_threads, "lacks": lacks}, indent=1))
        return
    table = Table("name", "type", "free", "total", "reads", "description", "features", box=None)
    for device in found:
        table.add_row(
            device.name,
            device.type,
            size(free.get(device.name, device.memory_free)),
            size(device.memory_total),
            f"{read / 1e9:.0f} GB/s" if device.type == "cpu" and read else "",
            device.description,
            device.features,
        )
    console = Console()
    console.print(table)
    console.print(f"{n_threads} CPU threads by default")
    for line in lacks:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def lacking(found: Sequence[Device]) -> list[str]:
    """What this ggml has no backend for, and what a card lacks for some types of the cache, each as a sentence."""
    names = {device.name.rstrip("0123456789") for device in found}
    if sys.platform == "darwin":
        wanted = {"Metal": "make ggml-metal"} if not any(device.type in ("gpu", "igpu") for device in found) else {}
    else:
        wanted = {name: command for name, command in _BACKENDS.items() if name not in names}
    lines = [
        f"this ggml has no {name} backend, or it finds no device: {command} builds it"
        for name, command in wanted.items()
    ]
    gpus = [device.name for device in found if device.type == "gpu"]
    gpus += [device.name for device in found if device.type == "igpu"]
    for number, name in enumerate(gpus):  # in the order of main_device
        lines += [f"{name}: {problem}" for problem in _without_flash_attention(number)]
    return lines


def _without_flash_attention(gpu: int) -> list[str]:
    """For each type of the cache that a card has no flash attention for: why."""
    found = []
    with hollow_file(PROBE, "Q8_0") as file:
        for name in _CACHE_TYPES:
            session = {"n_ctx": 256, "type_k": name, "type_v": name, "flash_attn": True}
            try:
                measure(file, {"n_gpu_layers": -1, "main_device": gpu}, session)
            except CommandRError as error:
                found.append(f"no cache in {name.upper()} ({error})")
    return found
