"""Arguments that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from commandr_gguf.params import CACHE_TYPES


def _cache_type(value: str) -> str:
    if value.lower() not in CACHE_TYPES:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(CACHE_TYPES)}")
    return value


def _gpu_layers(value: str | int) -> int | str:
    if isinstance(value, int):  # the default is parsed, too
        return value
    if value != "auto" and not re.fullmatch(r"-?[0-9]{1,9}", value):
        raise typer.BadParameter(f"{value!r} is not a number of layers or auto")
    return value if value == "auto" else int(value)


def _shares(value: str) -> list[float]:
    try:
        return [float(share) for share in value.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{value!r} is not a list of numbers such as 3,1") from None


def tokens(value: str | int) -> int:
    """A number of tokens: 32768, or 32K."""
    found = re.fullmatch(r"(-?[0-9]{1,15})([kK]?)", str(value))
    if found is None:
        raise typer.BadParameter(f"{value!r} is not a number of tokens such as 32768 or 32K")
    return int(found[1]) * (1024 if found[2] else 1)


_MODEL, _SAMPLING = "Model", "Sampling"


def ctx_option(text: str, *, show_default: bool = False, panel: str | None = None) -> Any:
    """`--ctx`, a number of tokens, with this help."""
    return typer.Option(
        "--ctx", "-c", parser=tokens, metavar="TOKENS", help=text, show_default=show_default, rich_help_panel=panel
    )


ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A GGUF file; of a split model, the first.", show_default=False)
]

Ctx = Annotated[
    Any,
    ctx_option(
        "Tokens that prompt and replies may have, such as 32K; 0 = as many as the model was trained for. "
        "Without it as many of those as fit in memory. Memory for them is taken as they come.",
        panel=_MODEL,
    ),
]
Shift = Annotated[
    bool,
    typer.Option(
        "--context-shift",
        rich_help_panel=_MODEL,
        help="At the end of the context forget the older half of what stands behind the preamble, and go on. "
        "Without it the reply ends there.",
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(
        "--keep",
        rich_help_panel=_MODEL,
        help="With --context-shift: tokens at the beginning that are not forgotten. Without it the preamble.",
        show_default=False,
    ),
]
GpuLayers = Annotated[
    Any,
    typer.Option(
        "--gpu-layers",
        "-g",
        parser=_gpu_layers,
        metavar="N|auto",
        rich_help_panel=_MODEL,
        help="Layers placed on GPUs, from the last; -1 = all, auto = as many as fit beside the KV cache.",
    ),
]
TensorSplit = Annotated[
    Any,
    typer.Option(
        "--tensor-split",
        parser=_shares,
        metavar="A,B,...",
        rich_help_panel=_MODEL,
        help="Share of each GPU in those layers, on any scale; by free memory without it.",
        show_default=False,
    ),
]
NUbatch = Annotated[
    int,
    typer.Option(
        "--ubatch", rich_help_panel=_MODEL, help="Most tokens in one graph: fewer take less memory, and prompts longer."
    ),
]
Rpc = Annotated[
    str | None,
    typer.Option(
        "--rpc",
        metavar="HOST:PORT,...",
        rich_help_panel=_MODEL,
        help="Place layers on these workers as well, which run `commandr rpc-serve`; they count as GPUs, before those "
        "of this machine.",
        show_default=False,
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", "-t", rich_help_panel=_MODEL, help="CPU threads; 0 = one per physical core.")
]
TypeK = Annotated[
    str,
    typer.Option(
        "--type-k",
        callback=_cache_type,
        rich_help_panel=_MODEL,
        help="Type of the K cache: f32, f16, bf16, q8_0 or q4_0.",
    ),
]
TypeV = Annotated[
    str, typer.Option("--type-v", callback=_cache_type, rich_help_panel=_MODEL, help="Type of the V cache, as above.")
]
Repack = Annotated[
    bool,
    typer.Option(
        "--repack/--no-repack",
        rich_help_panel=_MODEL,
        help="Copy CPU weights into the layouts that are computed fastest; without it they stay mapped from the file.",
    ),
]
CachePacked = Annotated[
    bool,
    typer.Option(
        "--cache-packed",
        rich_help_panel=_MODEL,
        help="Keep what is packed for our products in the file MODEL.packed, as large as MODEL: the next start maps it "
        "and packs nothing. It may be deleted at any time, and so may MODEL.packed.tmp, which a killed load leaves.",
    ),
]
DraftModel = Annotated[
    Path | None,
    typer.Option(
        "--draft-model",
        metavar="FILE",
        rich_help_panel=_MODEL,
        help="A GGUF file of a smaller model with the same vocabulary, which guesses what MODEL writes next: "
        "faster, and the same reply but for rounding.",
        show_default=False,
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", rich_help_panel=_MODEL, help="Print ggml's messages.")]

MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", help="Most tokens of a reply. Without it up to the context's end."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", help="A text that ends the reply and is not part of it; may be given several times."),
]
TopK = Annotated[int, typer.Option("--top-k", rich_help_panel=_SAMPLING, help="Of the k most likely; 0 = all.")]
TopP = Annotated[float, typer.Option("--top-p", rich_help_panel=_SAMPLING, help="Nucleus sampling; 1 = off.")]
MinP = Annotated[
    float, typer.Option("--min-p", rich_help_panel=_SAMPLING, help="Least share of the top probability; 0 = off.")
]
RepeatPenalty = Annotated[
    float, typer.Option("--repeat-penalty", rich_help_panel=_SAMPLING, help="Divides logits of tokens seen; 1 = off.")
]
Seed = Annotated[int | None, typer.Option("--seed", rich_help_panel=_SAMPLING, help="Makes a reply repeatable.")]
Temperature = Annotated[
    float, typer.Option("--temperature", rich_help_panel=_SAMPLING, help="0 = always the most likely token.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
