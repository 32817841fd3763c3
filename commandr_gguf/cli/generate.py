"""The command `commandr generate`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from commandr_gguf.chat.grammars import json_schema_grammar
from commandr_gguf.cli import options
from commandr_gguf.cli.format import timings_dict
from commandr_gguf.cli.loading import check_numbers, load, set_verbose
from commandr_gguf.cli.progress import PromptProgress
from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import ArgumentError, ContextFullError, FileError, FormatError
from commandr_gguf.generate import Generation, GenerationStream


def generate(
    model: options.ModelPath,
    prompt: Annotated[
        str | None, typer.Argument(help="The text to continue; without it, or with -, standard input.")
    ] = None,
    special: Annotated[
        bool, typer.Option("--special", help="Take control tokens that the prompt spells for what they are.")
    ] = False,
    schema: Annotated[
        Path | None,
        typer.Option(
            "--schema", metavar="FILE", help="A file with the JSON schema that the continuation must keep to."
        ),
    ] = None,
    max_tokens: options.MaxTokens = None,
    stop: options.Stop = None,
    top_logprobs: Annotated[
        int | None, typer.Option("--logprobs", help="With --json: log-probabilities of this many top tokens.")
    ] = None,
    as_json: options.AsJson = False,
    temperature: options.Temperature = 0.3,
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
    """Continue a text. Standard output carries the continuation and nothing else.

    For example:

    `commandr generate command-r.gguf "The capital of Ontario is" -n 16`

    `commandr generate command-r.gguf "An invented person as JSON:" --schema person.json`

    `commandr generate command-r.gguf --json < prompt.txt | jq .usage`
    """
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
    grammar = None if schema is None else _read_schema(schema)
    text = _read_prompt(prompt)
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
        repack=repack,
        cache_packed=cache_packed,
        draft=draft_model,
    ) as opened:
        progress = PromptProgress()
        stream = opened.generate(
            opened.tokenize(text, add_special=True, parse_special=special),
            stop=stop or (),
            top_logprobs=top_logprobs,
            grammar=grammar,
            progress=progress,
            stream=True,
            **numbers,
        )
        if as_json:
            print(json.dumps(_as_json(opened, stream.finish()), ensure_ascii=False))
            return
        try:
            _print(stream)
        finally:
            progress.clear()
        if schema is not None and stream.result.finish_reason == "length":
            n = stream.result.usage.completion_tokens
            raise ContextFullError(
                f"the value is not complete: it was cut after {n} tokens, see --max-tokens and --ctx"
            )


def _read_prompt(prompt: str | None) -> str:
    if prompt is not None and prompt != "-":
        return prompt
    if sys.stdin.isatty():
        raise ArgumentError("there is no prompt: give one as an argument or on standard input")
    text = sys.stdin.buffer.read().decode("utf-8", "replace")
    return text.removesuffix("\n")


def _read_schema(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"{path}: the schema cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: the schema is no text in UTF-8") from error
    try:
        return json_schema_grammar(text)
    except ArgumentError as error:
        raise FormatError(f"{path}: {error}") from error


def _print(stream: GenerationStream) -> None:
    try:
        for piece in stream:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    finally:
        sys.stdout.write("\n")


def _as_json(model: CommandR, result: Generation) -> dict[str, Any]:
    value: dict[str, Any] = {
        "text": result.text,
        "tokens": result.tokens,
        "finish_reason": result.finish_reason,
        "usage": asdict(result.usage),
        "timings": timings_dict(result.timings),
    }
    if result.logprobs:
        value["logprobs"] = [
            {
                "token": entry.token,
                "text": model.detokenize([entry.token]),
                "logprob": entry.logprob,
                "top": [{"token": t, "text": model.detokenize([t]), "logprob": p} for t, p in entry.top],
            }
            for entry in result.logprobs
        ]
    return value
