"""The command `commandr info`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table

from commandr_gguf.cli import options
from commandr_gguf.cli.format import shorten, size
from commandr_gguf.errors import UnsupportedError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams
from commandr_gguf.memory import kv_cache_bytes

_CACHE_TYPES = ("f32", "f16", "q8_0", "q4_0")
_LONG_ARRAY = 16


def info(
    model: options.ModelPath,
    n_ctx: Annotated[
        Any,
        options.ctx_option("Context whose memory to state; the model's without it."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Print a model's metadata, its tensors by type and the memory it needs. The weights are not loaded.

    For example:

    `commandr info command-r.gguf --ctx 32768`

    `commandr info command-r.gguf --json | jq .memory`
    """
    with GGUFFile(model) as file:
        report = describe(file, n_ctx)
    if as_json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        _print(report)


def describe(file: GGUFFile, n_ctx: int | None) -> dict[str, Any]:
    """What `--json` prints. Long arrays are stated by their length; sizes are bytes."""
    tensors: dict[str, dict[str, int]] = defaultdict(lambda: {"count": 0, "bytes": 0})
    for tensor in file.tensors:
        tensors[tensor.type]["count"] += 1
        tensors[tensor.type]["bytes"] += tensor.size
    report: dict[str, Any] = {
        "path": file.path,
        "files": {path: Path(path).stat().st_size for path in file.files},
        "metadata": {key: _value(file, key) for key in file},
        "packed_copy": _packed_copy(file.path, ".packed"),
        "packed_copy_unfinished": _packed_copy(file.path, ".packed.tmp"),
        "tensors": dict(sorted(tensors.items(), key=lambda item: -item[1]["bytes"])),
    }
    try:
        hparams = HParams.from_gguf(file)
    except UnsupportedError:
        return report
    n_ctx = n_ctx or hparams.n_ctx_train
    report["memory"] = {
        "n_ctx": n_ctx,
        "weights": sum(entry["bytes"] for entry in tensors.values()),
        "kv_cache": {name: kv_cache_bytes(hparams, n_ctx, type_k=name, type_v=name) for name in _CACHE_TYPES},
    }
    return report


def _packed_copy(path: str, ending: str) -> dict[str, Any] | None:
    """The file of --cache-packed, or its beginning. Whether a load can use it is found out by loading."""
    copy = Path(f"{path}{ending}")
    return {"path": str(copy), "bytes": copy.stat().st_size} if copy.is_file() else None


def _value(file: GGUFFile, key: str) -> Any:
    length = file.array_length(key)
    return f"[{length} elements]" if length is not None and length > _LONG_ARRAY else file[key]


def _print(report: dict[str, Any]) -> None:
    console = Console()
    width = max(map(len, report["metadata"]), default=0)
    for key, value in report["metadata"].items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        line = f"{key:{width}}  {shorten(shown, max(20, console.width - width - 2))}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print()
    tensors = Table("type", "tensors", "size", box=None)
    for name, entry in report["tensors"].items():
        tensors.add_row(name, str(entry["count"]), size(entry["bytes"]))
    console.print(tensors)
    files = report["files"]
    console.print(f"{len(files)} {'file' if len(files) == 1 else 'files'} of {size(sum(files.values()))}")
    if copy := report["packed_copy"]:
        line = f"{copy['path']} of {size(copy['bytes'])}, the packed weights that --cache-packed keeps: may be deleted"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if copy := report["packed_copy_unfinished"]:
        line = f"{copy['path']} of {size(copy['bytes'])}, the same, being written or left by a load that was killed"
        console.print(f"{line}: may be deleted", markup=False, highlight=False, soft_wrap=True)
    if memory := report.get("memory"):
        console.print(f"weights {size(memory['weights'])}; KV cache of {memory['n_ctx']} tokens:")
        for name, n_bytes in memory["kv_cache"].items():
            console.print(f"  {name:5} {size(n_bytes)}")
        total = size(memory["weights"] + memory["kv_cache"]["f16"])
        console.print(f"total {total} with the default f16 cache; an estimate: compute buffers come on top")
