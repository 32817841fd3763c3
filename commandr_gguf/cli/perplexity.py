"""The command `commandr perplexity`."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from commandr_gguf.cli import options
from commandr_gguf.cli.loading import load_model, set_verbose, warn_without_gpu
from commandr_gguf.cli.outputs import Force, check_output
from commandr_gguf.cli.progress import progress_bar
from commandr_gguf.cli.scores import finite, print_scores
from commandr_gguf.cli.texts import NChunks, OptionalChunkCtx, read_text
from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams
from commandr_gguf.quality.base_file import BaseReader, write_base
from commandr_gguf.quality.chunks import DEFAULT_N_CTX, MIN_N_CTX, Chunks, chunk_bos
from commandr_gguf.quality.evaluate import open_session
from commandr_gguf.quality.scores import score
from commandr_gguf.tokenizer import Tokenizer


def perplexity(
    model: options.ModelPath,
    text: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TEXT]",
            help="A text file in UTF-8. May be left out with --kl-base, which holds the tokens of its text.",
            show_default=False,
        ),
    ] = None,
    n_ctx: OptionalChunkCtx = None,
    n_chunks: NChunks = None,
    kl_base: Annotated[
        Path | None,
        typer.Option(
            "--kl-base",
            metavar="FILE",
            help="Compare with the log-probabilities of another model in this file, of llama.cpp's format.",
            show_default=False,
        ),
    ] = None,
    save_kl_base: Annotated[
        Path | None,
        typer.Option(
            "--save-kl-base",
            metavar="FILE",
            help="Write this model's log-probabilities: two bytes for each scored token and entry of the vocabulary.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    as_json: options.AsJson = False,
    n_gpu_layers: options.GpuLayers = 0,
    n_threads: options.Threads = 0,
    type_k: options.TypeK = "f16",
    type_v: options.TypeV = "f16",
    repack: options.Repack = True,
    cache_packed: options.CachePacked = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure the perplexity of a model on a text, and how far its predictions are from those of another model.

    The figures are computed as llama.cpp's perplexity tool does, and the files of log-probabilities are the same.

    For example:

    `commandr perplexity command-r-Q8_0.gguf wiki.txt --save-kl-base base.kld`

    `commandr perplexity command-r-Q4_K_M.gguf --kl-base base.kld`
    """
    set_verbose(verbose)
    integer("--threads", n_threads, 0)
    if n_chunks is not None:
        integer("--chunks", n_chunks, 1)
    if n_ctx is not None:
        integer("--ctx", n_ctx, MIN_N_CTX)
    with ExitStack() as opened:
        base = opened.enter_context(BaseReader(kl_base)) if kl_base is not None else None
        with GGUFFile(model) as file:
            if save_kl_base is not None:
                check_output("--save-kl-base", save_kl_base, [*file.files, text, kl_base], force=force)
            chunks = _chunks(file, text, n_ctx, base).limit(n_chunks)
        warn_without_gpu(n_gpu_layers)
        loading = {"n_gpu_layers": n_gpu_layers, "repack": repack, "cache_packed": cache_packed}
        loaded = opened.enter_context(load_model(model, n_threads=n_threads, **loading))
        session = opened.enter_context(open_session(loaded, chunks, n_threads=n_threads, type_k=type_k, type_v=type_v))
        save = None
        if save_kl_base is not None:
            save = opened.enter_context(write_base(save_kl_base, chunks, loaded.hparams.n_vocab))
        update = opened.enter_context(progress_bar(model.name, len(chunks)))
        scores = score(
            session,
            chunks,
            base=base,
            save=save,
            progress=lambda done, value: update(done, f"perplexity {value:.4f}"),
        )
    summary = {"model": os.fspath(model), "n_ctx": chunks.n_ctx, "n_chunks": len(chunks)} | scores.summary()
    if as_json:
        print(json.dumps(finite(summary)))
    else:
        print_scores(summary)


def _chunks(file: GGUFFile, text: Path | None, n_ctx: int | None, base: BaseReader | None) -> Chunks:
    """Of the text, of the base, or of both, which must then be the same."""
    tokenizer = Tokenizer.from_gguf(file)
    n_ctx = n_ctx or (DEFAULT_N_CTX if base is None else base.n_ctx)
    chunks = None if text is None else read_text(text).chunks(tokenizer, n_ctx)
    if base is not None:
        base.check(HParams.from_gguf(file).n_vocab, n_ctx, chunks)
        return Chunks(base.tokens, chunk_bos(tokenizer))
    if chunks is None:
        raise ArgumentError("there is no TEXT, and no --kl-base that holds the tokens of one")
    return chunks
