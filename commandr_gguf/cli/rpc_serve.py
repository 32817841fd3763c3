"""The command `commandr rpc-serve`."""

from __future__ import annotations

import signal
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from commandr_gguf.cli import options
from commandr_gguf.cli.loading import set_verbose
from commandr_gguf.errors import FileError
from commandr_gguf.workers import DEFAULT_PORT, free_address, serve_worker


def rpc_serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = DEFAULT_PORT,
    n_threads: options.Threads = 0,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache",
            metavar="FOLDER",
            help="Keep large weights in this folder: the next load of the same model sends their hashes only.",
            show_default=False,
        ),
    ] = None,
    verbose: options.Verbose = False,
) -> None:
    """Lend this machine's GPUs, or its CPU where there are none, to a `--rpc` elsewhere; one at a time.

    For example, on the worker and on the machine that has the model:

        commandr rpc-serve --host 192.168.7.2

        commandr chat command-r.gguf --rpc 192.168.7.2:50052
    """
    set_verbose(verbose)
    # It has nothing to save, and waits where Python does not look at signals.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    free_address(host, port)  # an error comes before the warning
    if not _is_loopback(host):
        print(
            f"commandr: WARNING: {host} is reachable from other machines, and ggml's RPC has no authentication and no "
            "encryption. Whoever reaches this port can read and write this process's memory: keep it inside a network "
            "that you trust, or behind a tunnel (ssh -L).",
            file=sys.stderr,
        )
    if cache is not None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{cache}: cannot be made: {error.strerror}") from error
    serve_worker(host, port, n_threads=n_threads, cache_dir=cache)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
