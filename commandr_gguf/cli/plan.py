"""The command `commandr plan`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from commandr_gguf.cli import options
from commandr_gguf.cli.flags import flags
from commandr_gguf.cli.format import size
from commandr_gguf.cli.loading import warn_beyond_training
from commandr_gguf.errors import ArgumentError, OutOfMemoryError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.plan.hollow import hollow_file
from commandr_gguf.plan.layout import Layout
from commandr_gguf.plan.placement import CONTEXTS, Planner
from commandr_gguf.plan.places import DECODE_SHARE, Place, described, parse_bytes, parse_rate, present
from commandr_gguf.plan.shapes import find_shape
from commandr_gguf.plan.speed import measured

_GIB = 1 << 30
_SHORT = (4096, 2048, 1024, 512)
"""Contexts that are offered where not even the shortest of the plan fits."""
_USUAL_TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
"""That need no importance matrix, from the largest on."""


def plan(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="A GGUF file.", show_default=False)] = None,
    shape: Annotated[
        str | None,
        typer.Option("--shape", metavar="NAME", help="Instead of a file a published model, such as command-r-v01."),
    ] = None,
    file_type: Annotated[
        str | None,
        typer.Option("--type", help="With --shape: the file type, as for convert; Q4_K_M.", show_default=False),
    ] = None,
    vram: Annotated[
        list[str] | None,
        typer.Option("--vram", metavar="SIZE", help="A card with so much free memory, such as 24G; once for each."),
    ] = None,
    ram: Annotated[
        str | None, typer.Option("--ram", metavar="SIZE", help="So much free memory of the host; 64G with --vram.")
    ] = None,
    bandwidth: Annotated[
        list[str] | None,
        typer.Option(
            "--bandwidth", metavar="RATE", help="Of each --vram in turn, then of --ram, such as 936G bytes per second."
        ),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            "--hosts",
            metavar="HOST:PORT,...",
            help="Workers that run `commandr rpc-serve`: they and the links to them are measured, and the plan says "
            "whether spreading the model over them pays.",
            show_default=False,
        ),
    ] = None,
    n_ctx: Annotated[
        Any,
        options.ctx_option(
            "Context that is wanted, such as 32K; 0 = what the model was trained for. Without it the longest that is "
            "fast."
        ),
    ] = None,
    type_k: Annotated[str | None, typer.Option("--type-k", help="Type of the K cache; chosen without it.")] = None,
    type_v: Annotated[str | None, typer.Option("--type-v", help="Type of the V cache; as --type-k without it.")] = None,
    n_threads: options.Threads = 0,
    as_json: options.AsJson = False,
) -> None:
    """Tell how a model fits in memory: its parts, the best placement, the speed to expect, and the command to run.

    Without --vram and --ram it is for this machine, whose speeds are measured in about a second.

    For example:

    `commandr plan command-r.gguf --ctx 32768`

    `commandr plan --shape command-r-v01 --type Q4_K_M --vram 24G --ram 64G --bandwidth 936G`
    """
    if (model is None) == (shape is None):
        raise ArgumentError(
            "give a GGUF file, or --shape and the name of a published model" + (", not both" if model else "")
        )
    if model and file_type:
        raise ArgumentError(f"--type goes with --shape: {model} has types of its own")
    if n_ctx is not None and n_ctx < 0:
        raise ArgumentError(f"--ctx must be 0 or more, not {n_ctx}")
    type_k, type_v = (kind.lower() if kind else None for kind in (type_k, type_v))
    places = _places(vram or [], ram, bandwidth or [], hosts)
    if len(places) > 1 and (type_k or type_v) and (type_k or type_v) != (type_v or type_k):
        raise ArgumentError("--type-k and --type-v must be equal where there are cards or workers")
    file_type = file_type or "Q4_K_M"
    source: AbstractContextManager[GGUFFile]
    source = GGUFFile(model) if model else hollow_file(find_shape(shape or ""), file_type)
    name = _argument(model) if model else f"{shape}-{file_type}.gguf"
    with source as file:
        planner = Planner(file, measured(places, _main_type(file), n_threads, hosts))
        types = None if type_k is None and type_v is None else [(type_k or type_v or "", type_v or type_k or "")]
        trained = planner.hparams.n_ctx_train
        n_ctx = trained if n_ctx == 0 else n_ctx
        contexts = None if n_ctx is None else [n_ctx]
        layout = planner.best(contexts, types)
        nearest, shortest = (None, None) if layout else _nearest(planner, n_ctx, types)
        smaller = _smaller_type(planner, shape) if shape and not (layout or nearest) else None
        ways = _ways(planner, layout, types) if hosts and layout else None
    report = _report(name, layout or nearest, shortest, planner.places, hosts)
    if n_ctx is not None:
        warn_beyond_training(name, n_ctx, trained)
    if smaller:
        report["type_that_fits"], fitting = smaller
        report["problem"] += f"; as {smaller[0]} it fits with {fitting} tokens"
    if ways:
        report["spreading"] = ways
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        _print(report)
    if layout is None:
        raise OutOfMemoryError(report["problem"])


def _smaller_type(planner: Planner, shape: str) -> tuple[str, int] | None:
    """The largest usual type with which a published model fits, and the context; None when none does."""
    n_bytes = sum(tensor.size for tensor in planner.file.tensors)
    for name in _USUAL_TYPES:
        with hollow_file(find_shape(shape), name) as file:
            other = Planner(file, planner.places)
            is_smaller = sum(tensor.size for tensor in file.tensors) < n_bytes
            if is_smaller and (layout := other.best([*_SHORT])):
                return name, layout.n_ctx
    return None


def _argument(path: Path) -> str:
    """A path that no command takes for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def _ways(planner: Planner, layout: Layout, types: list[tuple[str, str]] | None) -> dict[str, Any]:
    """The plan beside what this machine does alone and what it does with most layers on workers, at its context."""
    here = [place for place in planner.places if place.kind != "worker"]
    alone = Planner(planner.file, here, n_seq_max=planner.n_seq_max)
    wanted = types or [(layout.type_k, layout.type_v)]
    by_itself = alone.best([layout.n_ctx], wanted, layout.n_ubatch)
    spread = planner.most_spread(layout.n_ctx, (layout.type_k, layout.type_v), layout.n_ubatch)
    return {
        "pays": layout.uses_workers,
        "alone_tokens_per_second": by_itself.decode if by_itself else None,
        "spread_tokens_per_second": spread.decode if spread else None,
    }


def _places(vram: Sequence[str], ram: str | None, bandwidth: Sequence[str], hosts: str | None) -> list[Place]:
    """The host and cards that are described; those of this machine, with workers, when none is."""
    if not vram and ram is None:
        if bandwidth:
            raise ArgumentError("--bandwidth goes with --vram and --ram")
        return present(hosts)
    if hosts:
        raise ArgumentError("--hosts goes with the devices of this machine, not with --vram and --ram")
    if len(bandwidth) > len(vram) + 1:
        raise ArgumentError(f"--bandwidth is given {len(bandwidth)} times, for {len(vram) + 1} devices")
    rates: list[float | None] = [parse_rate("--bandwidth", text) for text in bandwidth]
    rates += [None] * (len(vram) + 1 - len(rates))
    host = described("cpu", 0, parse_bytes("--ram", ram or "64G"), rates[-1])
    cards = zip(vram, rates, strict=False)
    return [host, *(described("gpu", i, parse_bytes("--vram", text), rate) for i, (text, rate) in enumerate(cards))]


def _main_type(file: GGUFFile) -> str:
    """The type of most bytes: what products of a prompt are measured with."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors:
        if tensor.name.startswith("blk."):
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size
    most = max(sizes, key=lambda name: sizes[name])
    return {"Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S", "Q3_K": "Q3_K_S", "IQ2_S": "IQ2_S", "Q2_K": "Q2_K_S"}.get(most, most)


def _nearest(planner: Planner, n_ctx: int | None, types: list[tuple[str, str]] | None) -> tuple[Layout | None, Layout]:
    """The best that fits when the wishes are given up one by one; and the wish, placed on the host as if it fitted."""
    trained = planner.hparams.n_ctx_train
    wanted = n_ctx or min(4096, trained)
    shorter = [n for n in dict.fromkeys((*CONTEXTS, *_SHORT)) if n <= min(wanted, trained)]
    wish = planner.smallest(wanted, types[0] if types else ("f16", "f16"))
    found = planner.best([wanted], None) or planner.best(shorter, types) or planner.best(shorter, None)
    return found, wish


def _report(
    name: str, layout: Layout | None, wish: Layout | None, places: Sequence[Place], hosts: str | None
) -> dict[str, Any]:
    """What `--json` prints; sizes are bytes, speeds per second."""
    report: dict[str, Any] = {"model": name, "fits": wish is None}
    if wish is not None:
        needed, free = sum(s.total for s in wish.shares), sum(place.memory for place in places)
        short = max(0, needed - free)
        where = f"{size(needed)} with {wish.n_ctx} tokens of context and a cache in {wish.type_k.upper()}"
        report["problem"] = f"{name} does not fit: it takes {where}, {size(short)} more than the {size(free)} there are"
        if not short:
            report["problem"] = f"{name} does not fit: it takes {where}, and no device has room for its part"
        report["missing"] = short
    report["devices"] = [_device(place) for place in places]
    if layout is None:
        return report
    report["plan"] = {
        "n_ctx": layout.n_ctx,
        "n_ubatch": layout.n_ubatch,
        "n_seq_max": layout.n_seq_max,
        "type_k": layout.type_k,
        "type_v": layout.type_v,
        "n_gpu_layers": layout.n_gpu_layers,
        "decode_tokens_per_second": layout.decode,
        "decode_tokens_per_second_full": layout.decode_full,
        "prefill_tokens_per_second": layout.prefill,
        "shares": [
            {
                "device": s.place.name,
                "layers": s.n_layers,
                "weights": s.weights,
                "head": s.head,
                "kv": s.kv,
                "compute": s.compute,
                "total": s.total,
            }
            for s in layout.shares
        ],
    }
    arguments = layout.arguments() | ({"rpc": hosts} if hosts and layout.uses_workers else {})
    report["arguments"] = arguments
    report["command"] = shlex.join(["commandr", "chat", name, *flags(arguments)])
    return report


def _device(place: Place) -> dict[str, Any]:
    return {
        "device": place.name,
        "kind": place.kind,
        "memory": place.memory,
        "read_bytes_per_second": place.read,
        "read_source": place.read_source,
        "operations_per_second": place.compute,
        "compute_source": place.compute_source,
        "link_bytes_per_second": place.link,
        "latency_seconds": place.latency,
    }


def _print(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    devices = {device["device"]: device for device in report["devices"]}
    if not report["fits"]:
        console.print("The nearest that fits:" if "plan" in report else "Nothing that fits was found.")
    if "plan" not in report:
        return
    found = report["plan"]
    table = Table("GiB", "layers", "weights", "head", "KV cache", "compute", "total", "usable", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for share in found["shares"]:
        cells = [f"{share[part] / _GIB:.2f}" for part in ("weights", "head", "kv", "compute", "total")]
        usable = devices[share["device"]]["memory"] / _GIB
        table.add_row(share["device"], str(share["layers"]), *cells, f"{usable:.2f}")
    console.print(table)
    types = {found["type_k"], found["type_v"]}
    cache = found["type_k"].upper() if len(types) == 1 else f"{found['type_k'].upper()}/{found['type_v'].upper()}"
    console.print(
        f"{found['n_ctx']} tokens of context, cache in {cache}, {found['n_seq_max']} prompts kept, "
        f"{found['n_ubatch']} tokens a graph",
        soft_wrap=True,
    )
    console.print(
        f"decode  {_rate(found['decode_tokens_per_second']):>8} tokens/s, "
        f"{_rate(found['decode_tokens_per_second_full'])} with a full context\n"
        f"prefill {_rate(found['prefill_tokens_per_second']):>8} tokens/s"
    )
    for device in report["devices"]:
        read, compute = device["read_bytes_per_second"] / 1e9, device["operations_per_second"] / 1e9
        console.print(
            f"  {device['device']}: reads {read:.0f} GB/s ({device['read_source']}; decoding is taken to reach "
            f"{DECODE_SHARE[device['read_source']]:.0%} of it), "
            f"computes {compute:.0f} GFLOP/s ({device['compute_source']}){_link(device)}",
            soft_wrap=True,
        )
    if "spreading" in report:
        console.print(_verdict(report["spreading"]), soft_wrap=True)
    console.print(f"\n{report['command']}", markup=False, soft_wrap=True)


def _rate(per_second: float) -> str:
    return f"{per_second:.1f}" if per_second < 100 else f"{per_second:.0f}"


def _link(device: dict[str, Any]) -> str:
    if device["link_bytes_per_second"] is None:
        return ""
    rate, latency = device["link_bytes_per_second"] / 1e6, 1e3 * device["latency_seconds"]
    return f", {rate:.0f} MB/s to it, {latency:.2f} ms there and back"


def _verdict(ways: dict[str, Any]) -> str:
    alone, spread = ways["alone_tokens_per_second"], ways["spread_tokens_per_second"]
    if alone is None:
        return "Spreading pays: it does not fit here alone."
    there = f"{spread:.1f} with workers" if spread else "it does not fit on the workers either"
    return f"Spreading {'pays' if ways['pays'] else 'does not pay'}: {alone:.1f} tokens/s here alone, {there}."
