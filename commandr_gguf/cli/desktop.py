"""The command `commandr app`."""

from __future__ import annotations

import logging
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from commandr_gguf.cli import options
from commandr_gguf.cli.demo import embedded_model
from commandr_gguf.cli.loading import set_verbose
from commandr_gguf.cli.server_run import check_server_packages, run_server
from commandr_gguf.errors import integer

PORT = 8417
"""The port that is taken when it is free. Browsers keep what a page stores by its address, port included: with another
port at each start no conversation would be found again."""
_PARALLEL = 2
_DEMO = "demo"
"""The embedded model's name: its file's has a hash in it."""


def app(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="A GGUF file; without it the small embedded model.", show_default=False),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", help=f"Without it {PORT}, or a free one where that is in use.", show_default=False
        ),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser, or print its address only.")
    ] = True,
    n_ctx: options.Ctx = None,
    n_gpu_layers: options.GpuLayers = "auto",
    tensor_split: options.TensorSplit = None,
    rpc: options.Rpc = None,
    n_ubatch: options.NUbatch = 512,
    n_threads: options.Threads = 0,
    type_k: options.TypeK = "f16",
    type_v: options.TypeV = "f16",
    repack: options.Repack = True,
    cache_packed: options.CachePacked = False,
    draft_model: options.DraftModel = None,
    verbose: options.Verbose = False,
) -> None:
    """Open a page in the browser to chat with a model and ask documents. Ctrl-C ends it.

    Nobody else can reach it, and nothing leaves this machine.

    For example:

    `commandr app command-r.gguf`

    `commandr app command-r.gguf --ctx 32768 --no-browser`
    """
    check_server_packages()
    set_verbose(verbose)
    if port is not None:
        integer("--port", port, 0, 65535)

    def ready(address: str) -> None:
        print(f"commandr: the page is at {address}/ (Ctrl-C ends it)", file=sys.stderr, flush=True)
        if browser:  # beside the server, since some browsers return only when they are closed
            threading.Thread(target=webbrowser.open, args=(f"{address}/",), daemon=True).start()

    run_server(
        embedded_model() if model is None else model,
        ready,
        settings={"port": PORT if port is None else port, "model_alias": _DEMO if model is None else None},
        engine={"n_parallel": _PARALLEL},
        any_port=port is None,
        level=logging.INFO if verbose else logging.WARNING,
        n_ctx=n_ctx,
        n_gpu_layers=n_gpu_layers,
        tensor_split=tensor_split,
        rpc=rpc,
        n_ubatch=n_ubatch,
        n_threads=n_threads,
        type_k=type_k,
        type_v=type_v,
        repack=repack,
        cache_packed=cache_packed,
        draft=draft_model,
    )
