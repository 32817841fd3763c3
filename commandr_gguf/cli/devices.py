"""The command `commandr devices`."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from commandr_gguf.cli.format import size
from commandr_gguf.cli.options import AsJson
from commandr_gguf.devices import default_n_threads
from commandr_gguf.devices import devices as all_devices


def devices(as_json: AsJson = False) -> None:
    """List what can compute: the CPU and the GPUs that the installed ggml knows.

    For example: `commandr devices`
    """
    found = all_devices()
    n_threads = default_n_threads()
    if as_json:
        print(json.dumps({"devices": [asdict(device) for device in found], "n_threads": n_threads}, indent=1))
        return
    table = Table("name", "type", "free", "total", "description", "features", box=None)
    for device in found:
        table.add_row(
            device.name,
            device.type,
            size(device.memory_free),
            size(device.memory_total),
            device.description,
            device.features,
        )
    console = Console()
    console.print(table)
    console.print(f"{n_threads} CPU threads by default")
