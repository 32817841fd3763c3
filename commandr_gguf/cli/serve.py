"""The command `commandr serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from commandr_gguf.cli import options
from commandr_gguf.cli.loading import check_numbers, set_verbose
from commandr_gguf.cli.server_run import check_server_packages, run_server
from commandr_gguf.command_r import CHAT_TEMPERATURE
from commandr_gguf.errors import integer
from commandr_gguf.prefix_cache import MAX_SEQUENCES
from commandr_gguf.sampling import SamplingParams

_SERVER, _LIMITS = "Server", "Limits"


def serve(
    model: options.ModelPath,
    host: Annotated[
        str,
        typer.Option(
            "--host", rich_help_panel=_SERVER, help="The address to listen at. One that others reach needs --api-key."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", rich_help_panel=_SERVER, help="0 takes a free one.")] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="COMMANDR_API_KEY",
            rich_help_panel=_SERVER,
            help="Clients must send it as `Authorization: Bearer KEY`. In the environment others do not see it.",
            show_default=False,
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            metavar="ORIGIN",
            rich_help_panel=_SERVER,
            help="Web pages of this origin may use the server, such as http://localhost:3000; "
            "may be given several times. * stands for all.",
        ),
    ] = None,
    model_alias: Annotated[
        str | None,
        typer.Option(
            "--model-alias",
            rich_help_panel=_SERVER,
            help="The model's name in answers; else the file's.",
            show_default=False,
        ),
    ] = None,
    prompt_cache: Annotated[
        Path | None,
        typer.Option(
            "--prompt-cache",
            metavar="DIR",
            rich_help_panel=_SERVER,
            help="Keep the beginnings of prompts in this folder, so that the next start is faster. "
            "It holds what prompts say.",
        ),
    ] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", rich_help_panel=_SERVER, help="Write what is asked into the log.")
    ] = False,
    parallel: Annotated[
        int,
        typer.Option(
            "--parallel",
            "-j",
            rich_help_panel=_LIMITS,
            help="Requests that are computed at once. They share the tokens of --ctx.",
        ),
    ] = 4,
    queue: Annotated[
        int, typer.Option("--queue", rich_help_panel=_LIMITS, help="Requests that may wait beside those.")
    ] = 64,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", rich_help_panel=_LIMITS, help="Seconds that a request may take, waiting included; 0 = any."
        ),
    ] = 600.0,
    body_timeout: Annotated[
        float,
        typer.Option(
            "--body-timeout", rich_help_panel=_LIMITS, help="Seconds in which a request's body must have arrived."
        ),
    ] = 60.0,
    grace: Annotated[
        float,
        typer.Option(
            "--grace", rich_help_panel=_LIMITS, help="Seconds that requests have to end when the server stops."
        ),
    ] = 10.0,
    max_body: Annotated[
        int, typer.Option("--max-body", rich_help_panel=_LIMITS, help="Most MiB of a request's body.")
    ] = 32,
    max_documents: Annotated[
        int, typer.Option("--max-documents", rich_help_panel=_LIMITS, help="Most documents of a request.")
    ] = 1000,
    prefill: Annotated[
        int,
        typer.Option("--prefill", rich_help_panel=_LIMITS, help="Most tokens of prompts in one step."),
    ] = 512,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = CHAT_TEMPERATURE,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    repeat_penalty: options.RepeatPenalty = 1.0,
    seed: options.Seed = None,
    n_ctx: options.Ctx = None,
    context_shift: options.Shift = False,
    n_keep: options.Keep = None,
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
    """Serve a model to programs that know Cohere's interface or OpenAI's. Ctrl-C ends it.

    Sampling options and --max-tokens are what a request gets that does not say otherwise.

    For example:

    `commandr serve command-r.gguf`

    `commandr serve command-r.gguf --host 0.0.0.0 --api-key "$KEY" --parallel 8 --ctx 32768`
    """
    check_server_packages()
    set_verbose(verbose)
    numbers = check_numbers(
        max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        seed=seed,
    )
    for name, value, low, high in (
        ("--parallel", parallel, 1, MAX_SEQUENCES),
        ("--queue", queue, 0, 1 << 20),
        ("--port", port, 0, 65535),
        ("--max-body", max_body, 1, 1 << 20),
        ("--max-documents", max_documents, 0, 1 << 30),
        ("--prefill", prefill, 1, 1 << 20),
    ):
        integer(name, value, low, high)
    run_server(
        model,
        lambda address: print(f"commandr: listening at {address}", file=sys.stderr, flush=True),
        settings={
            "host": host,
            "port": port,
            "api_key": api_key,
            "cors_origins": tuple(cors_origin or ()),
            "model_alias": model_alias,
            "timeout": timeout or None,
            "body_timeout": body_timeout,
            "grace": grace,
            "max_body_bytes": max_body << 20,
            "max_documents": max_documents,
            "max_tokens": numbers.pop("max_tokens"),
            "sampling": SamplingParams(**numbers),
            "log_prompts": log_prompts,
        },
        engine={"n_parallel": parallel, "n_queue": queue, "n_prefill": prefill},
        n_ctx=n_ctx,
        context_shift=context_shift,
        n_keep=n_keep,
        n_gpu_layers=n_gpu_layers,
        tensor_split=tensor_split,
        rpc=rpc,
        n_ubatch=n_ubatch,
        n_threads=n_threads,
        type_k=type_k,
        type_v=type_v,
        prompt_cache=prompt_cache,
        repack=repack,
        cache_packed=cache_packed,
        draft=draft_model,
    )
