"""The command `commandr chat`."""

from __future__ import annotations

from typing import Annotated

import typer

from commandr_gguf.chat.conversation import Conversation
from commandr_gguf.cli import options
from commandr_gguf.cli.loading import load, set_verbose
from commandr_gguf.cli.repl import Repl
from commandr_gguf.command_r import CHAT_TEMPERATURE


def chat(
    model: options.ModelPath,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system message.")] = None,
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
    n_gpu_layers: options.GpuLayers = 0,
    n_threads: options.Threads = 0,
    type_k: options.TypeK = "f16",
    type_v: options.TypeV = "f16",
    verbose: options.Verbose = False,
) -> None:
    """Talk with a model in the terminal. /help lists the commands; Ctrl-C stops a reply, Ctrl-D ends the chat.

    With a pipe, each line of standard input is a message, and standard output carries the replies.

    For example:

    `commandr chat command-r.gguf --system "Answer in French."`

    `echo "Name three rivers." | commandr chat command-r.gguf`
    """
    set_verbose(verbose)
    with load(
        model, n_ctx=n_ctx, n_gpu_layers=n_gpu_layers, n_threads=n_threads, type_k=type_k, type_v=type_v
    ) as opened:
        conversation = Conversation(
            opened,
            system,
            max_tokens=max_tokens,
            stop=stop or (),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
        )
        Repl(conversation, n_ctx=opened.n_ctx, stats=stats).run()
