"""The command `commandr sensitivity`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from commandr_gguf.cli import options
from commandr_gguf.cli.format import count, size
from commandr_gguf.cli.loading import load_model, set_verbose, warn_without_gpu
from commandr_gguf.cli.outputs import check_output
from commandr_gguf.cli.progress import progress_bar
from commandr_gguf.cli.texts import ChunkCtx, TextPath, read_text
from commandr_gguf.errors import integer
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams
from commandr_gguf.quality.base_file import base_bytes
from commandr_gguf.quality.chunks import DEFAULT_N_CTX, MIN_N_CTX
from commandr_gguf.quality.sensitivity import measure, plan_probes
from commandr_gguf.quality.sensitivity_file import Subject, read_sensitivities, write_sensitivities
from commandr_gguf.quantize import type_find, type_name
from commandr_gguf.tokenizer import Tokenizer


def sensitivity(
    model: options.ModelPath,
    text: TextPath,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A JSON file; one that was begun is continued.", show_default=False)
    ],
    ggml_type: Annotated[str, typer.Option("--type", help="The type that tensors are rounded to.")] = "Q4_K",
    n_chunks: Annotated[int, typer.Option("--chunks", help="Chunks of the text to evaluate.")] = 8,
    n_ctx: ChunkCtx = DEFAULT_N_CTX,
    n_gpu_layers: options.GpuLayers = 0,
    n_threads: options.Threads = 0,
    verbose: options.Verbose = False,
) -> None:
    """Measure for each matrix how far the model's predictions move when that matrix alone is quantized.

    It evaluates the text once more than there are matrices. The file is written after each of them, and the same
    command goes on where it was stopped. The whole model is loaded into memory, so use a file of F16, BF16 or Q8_0.

    For example:

    `commandr sensitivity command-r-BF16.gguf wiki.txt -o command-r.sensitivity.json`
    """
    set_verbose(verbose)
    integer("--threads", n_threads, 0)
    integer("--chunks", n_chunks, 1)
    integer("--ctx", n_ctx, MIN_N_CTX)
    ggml_type = type_name(type_find(ggml_type))
    source = read_text(text)
    with GGUFFile(model) as file:
        # What lies there is continued, or refused when it is read.
        check_output("--output", output, [*file.files, text], force=True)
        n_vocab = HParams.from_gguf(file).n_vocab
        chunks = source.chunks(Tokenizer.from_gguf(file), n_ctx, n_chunks)
        probes = plan_probes(file.tensors, ggml_type)
    n_tokens = len(chunks) * chunks.n_scored
    subject = Subject(model.name, source.sha256, ggml_type, n_ctx, n_tokens)
    found = read_sensitivities(output, subject)
    left = [probe for probe in probes if probe.tensor.name not in found]
    if not left:
        print(f"commandr: {output}: all {len(probes)} tensors are measured", file=sys.stderr)
        return
    write_sensitivities(output, subject, found)  # what cannot be written is known before the work
    n_bytes = size(base_bytes(len(chunks), n_ctx, n_vocab))
    print(
        f"commandr: {len(left)} of {count(len(probes), 'tensor')} to measure on {n_tokens} tokens, "
        f"with a temporary file of {n_bytes}",
        file=sys.stderr,
    )
    warn_without_gpu(n_gpu_layers)
    loading = {"use_mmap": False, "repack": False, "n_gpu_layers": n_gpu_layers, "n_threads": n_threads}
    with (
        load_model(model, **loading) as loaded,
        progress_bar(model.name, len(chunks) * (1 + len(left))) as update,
    ):

        def advance(done: int) -> None:
            update(done, f"{len(found)} of {count(len(probes), 'tensor')}")

        for name, result in measure(loaded, chunks, left, n_threads=n_threads, progress=advance):
            found[name] = result
            write_sensitivities(output, subject, found)
            if not sys.stderr.isatty():
                print(f"{len(found)}/{len(probes)} {name} {result.kl:.6f}", file=sys.stderr, flush=True)
