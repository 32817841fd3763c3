"""The command `commandr chat`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from commandr_gguf.chat.conversation import Conversation
from commandr_gguf.chat.events import Event
from commandr_gguf.chat.tool_run import ToolResult
from commandr_gguf.cli import options
from commandr_gguf.cli.loading import check_numbers, load, set_verbose
from commandr_gguf.cli.progress import PromptProgress
from commandr_gguf.cli.repl import Repl
from commandr_gguf.cli.replies import CitationPrinter, ReplyPrinter, print_json, print_text
from commandr_gguf.cli.sources import load_functions, read
from commandr_gguf.command_r import CHAT_TEMPERATURE
from commandr_gguf.errors import ArgumentError


def chat(
    model: options.ModelPath,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system message.")] = None,
    docs: Annotated[
        list[Path] | None,
        typer.Option(
            "--docs",
            "-d",
            metavar="PATH",
            help="Answer from these files and folders (text, Markdown, HTML, PDF), with citations; "
            "may be given several times.",
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="With --docs: write answers once, with citations at once.")
    ] = False,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            "--tools",
            metavar="MODULE:FUNCTION",
            help="A Python function that the model may call; may be given several times.",
        ),
    ] = None,
    single_step: Annotated[
        bool,
        typer.Option(
            "--single-step",
            help="With --tools: call functions once and answer from what they gave, with the prompts of one step.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each reply as one JSON object in a line.")] = False,
    prompt_cache: Annotated[
        Path | None,
        typer.Option(
            "--prompt-cache",
            metavar="DIR",
            help="Keep the beginnings of prompts in this folder, so that the next start is faster. "
            "It holds what prompts say.",
        ),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print the speed after each reply.")] = False,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
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
    """Talk with a model in the terminal. /help lists the commands; Ctrl-C stops a reply, Ctrl-D ends the chat.

    With a pipe, each line of standard input is a message, and standard output carries the replies.

    For example:

    `commandr chat command-r.gguf --system "Answer in French."`

    `commandr chat command-r.gguf --docs reports/ --docs notes.md`

    `commandr chat command-r.gguf --tools weather:forecast --tools weather:warnings`

    `commandr chat command-r.gguf --tools weather:forecast --single-step`

    `echo "Name three rivers." | commandr chat command-r.gguf`
    """
    set_verbose(verbose)
    if docs and tools:
        raise ArgumentError("--docs and --tools cannot be given together: each has a prompt of its own")
    if fast and not docs:
        raise ArgumentError("--fast needs --docs")
    if single_step and not tools:
        raise ArgumentError("--single-step needs --tools")
    numbers = check_numbers(
        max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        seed=seed,
    )
    functions = load_functions(tools) if tools else None
    documents = read(docs) if docs else None
    show: ReplyPrinter = print_json if as_json else print_text
    if documents is not None and not as_json:
        show = CitationPrinter([_with_its_place(document) for document in documents])
    with load(
        model,
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
    ) as opened:
        progress = PromptProgress()
        conversation = Conversation(
            opened,
            system,
            tools=functions,
            **({"multi_step": False} if single_step else {}),
            **({} if documents is None else {"documents": documents, "citation_mode": "fast" if fast else "accurate"}),
            stop=stop or (),
            progress=progress,
            **numbers,
        )
        Repl(conversation, n_ctx=opened.n_ctx, stats=stats, show=_and_clear(show, progress)).run()


def _and_clear(show: ReplyPrinter, progress: PromptProgress) -> ReplyPrinter:
    """Print replies, and take the line away that a reply stopped by Ctrl-C leaves."""

    def print_reply(events: Iterable[Event | ToolResult]) -> None:
        try:
            show(events)
        finally:
            progress.clear()

    return print_reply


def _with_its_place(document: Mapping[str, Any]) -> dict[str, str]:
    """What is shown of a document from a file: its title tells which, be it a heading that many files have."""
    data: dict[str, str] = {"title": "", **document["data"]}
    file = str(document["id"]).rpartition("#")[0]
    is_told = data["title"].startswith(Path(file).name)
    return data if is_told else {**data, "title": " ".join(filter(None, [data["title"], f"({file})"]))}
