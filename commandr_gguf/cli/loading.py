"""Loading a model with a progress bar on stderr, when a person is watching."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from commandr_gguf.cli.flags import flags
from commandr_gguf.command_r import CommandR
from commandr_gguf.devices import devices
from commandr_gguf.errors import ArgumentError, OutOfMemoryError, integer
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.log import enable_native_log
from commandr_gguf.model import Model
from commandr_gguf.plan.settling import place
from commandr_gguf.sampling import SamplingParams

_T = TypeVar("_T")
_MEASURED_CONTEXT = 4096  # what commands that measure a model leave room for on GPUs


def check_numbers(max_tokens: int | None, **sampling: Any) -> dict[str, Any]:
    """All of them by name. Raises ArgumentError for what is out of range: sooner than after a large model's loading."""
    SamplingParams(**sampling)
    if max_tokens is not None:
        integer("max_tokens", max_tokens, 0)
    return {"max_tokens": max_tokens, **sampling}


def load(path: Path, **options: Any) -> CommandR:
    """`CommandR(path, **options)`; the bar goes away when the model is there."""
    if not options.get("rpc"):
        warn_without_gpu(options.get("n_gpu_layers", 0), options.get("tensor_split"))
    _check(options)
    model = _with_bar(CommandR, path, options)
    _warn_without_cache(model.model, options)
    warn_beyond_training(path, model.n_ctx, model.model.hparams.n_ctx_train)
    return model


def warn_beyond_training(name: object, n_ctx: int, trained: int) -> None:
    """Say that a context is longer than the model was trained for, where it is."""
    if n_ctx > trained:
        print(
            f"commandr: {name}: --ctx {n_ctx} is beyond the {trained} tokens that the model was trained for",
            file=sys.stderr,
        )


def warn_without_gpu(n_gpu_layers: int | str, split: Sequence[float] | None = None) -> None:
    """Say that --gpu-layers and --tensor-split have no effect, where they have none."""
    if any(device.type in ("gpu", "igpu") for device in devices()):
        return
    for option, is_given in (("--gpu-layers", n_gpu_layers not in (0, "auto")), ("--tensor-split", bool(split))):
        if is_given:
            print(f"commandr: {option} has no effect: no GPU is present", file=sys.stderr)


def load_model(path: Path, **options: Any) -> Model:
    """`Model(path, **options)`, the weights alone; the bar goes away when they are there."""
    _check(options)
    if options.get("n_gpu_layers") == "auto":
        with GGUFFile(path) as file:
            options |= place(file, options, {"n_ctx": _MEASURED_CONTEXT, "n_seq_max": 1})
    model = _with_bar(Model, path, options)
    _warn_without_cache(model, options)
    return model


def _check(options: dict[str, Any]) -> None:
    for name, option in (("repack", "--no-repack"), ("use_mmap", "--no-mmap")):
        if options.get("cache_packed") and not options.get(name, True):
            raise ArgumentError(f"--cache-packed cannot go with {option}")


def _warn_without_cache(model: Model, options: dict[str, Any]) -> None:
    if options.get("cache_packed") and all(use.what != "packed-mapped" for use in model.memory()):
        print(f"commandr: {model.path}: --cache-packed had no effect; --verbose tells why", file=sys.stderr)


def _with_bar(opener: Callable[..., _T], path: Path, options: dict[str, Any]) -> _T:
    if not sys.stderr.isatty():
        return _open(opener, path, options)
    columns = (TextColumn("loading {task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(path.name, total=1.0)
        return _open(opener, path, options | {"progress": lambda fraction: bar.update(task, completed=fraction)})


def _open(opener: Callable[..., _T], path: Path, options: dict[str, Any]) -> _T:
    """Open a model; what would fit instead is said in options of the command line."""
    try:
        return opener(path, **options)
    except OutOfMemoryError as error:
        problem, found, _ = str(error).rpartition("this fits: ")
        if error.fitting is None or not found:
            raise
        raise OutOfMemoryError(f"{problem}this fits: {' '.join(flags(error.fitting))}") from error


def set_verbose(verbose: bool) -> None:
    """Print ggml's messages on stderr, or nothing."""
    if verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(message)s", stream=sys.stderr)
    enable_native_log(verbose)
