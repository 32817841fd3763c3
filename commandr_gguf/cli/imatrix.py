"""The command `commandr imatrix`."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from commandr_gguf.cli import options
from commandr_gguf.cli.format import count
from commandr_gguf.cli.loading import load_model, set_verbose, warn_without_gpu
from commandr_gguf.cli.outputs import Force, check_output
from commandr_gguf.cli.progress import progress_bar
from commandr_gguf.cli.signals import Stopped
from commandr_gguf.cli.texts import read_text
from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.imatrix import ImportanceMatrix
from commandr_gguf.imatrix_collection import DEFAULT_N_CTX, ImatrixCollector, chunks
from commandr_gguf.tokenizer import Tokenizer

_SAVE_SECONDS = 60.0


def imatrix(
    model: options.ModelPath,
    text: Annotated[
        Path | None,
        typer.Argument(
            metavar="TEXT",
            help="A file of text in UTF-8; without one, the files of --in-file are added up.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The importance matrix that is written.")
    ] = Path("imatrix.gguf"),
    ctx: Annotated[Any, options.ctx_option("Tokens per chunk of the text.", show_default=True)] = DEFAULT_N_CTX,
    n_chunks: Annotated[
        int | None, typer.Option("--chunks", help="Chunks that are read. Without it all.", show_default=False)
    ] = None,
    from_chunk: Annotated[int, typer.Option("--from-chunk", help="Chunks at the start that are passed over.")] = 0,
    in_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--in-file",
            metavar="FILE",
            help="An importance matrix to add to, ours or llama.cpp's; may be given several times.",
        ),
    ] = None,
    force: Force = False,
    process_output: Annotated[
        bool, typer.Option("--process-output", help="Include the head, which is token_embd.weight.")
    ] = False,
    parse_special: Annotated[
        bool,
        typer.Option("--parse-special", help="Take <|START_OF_TURN_TOKEN|> and the like in TEXT for what they are."),
    ] = False,
    n_gpu_layers: options.GpuLayers = 0,
    n_threads: options.Threads = 0,
    repack: options.Repack = True,
    cache_packed: options.CachePacked = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure which columns of the weights matter, for a better quantization: `convert --imatrix FILE` uses it.

    The model, best in BF16 or Q8_0, reads a text in chunks, and the squared inputs of each weight matrix are summed up,
    as llama.cpp's imatrix tool does; each program reads the other's files. What is done is saved every minute and when
    the program is stopped, by Ctrl-C or a signal, which also tells the options to go on with: the file so far with
    --in-file, its chunks with --from-chunk, and another --output.

    For example: `commandr imatrix command-r-bf16.gguf calibration.txt -o command-r.imatrix.gguf`
    """
    set_verbose(verbose)
    integer("--ctx", ctx, 2)
    integer("--from-chunk", from_chunk, 0)
    integer("--threads", n_threads, 0)
    if n_chunks is not None:
        integer("--chunks", n_chunks, 1)
    if text is None and not in_files:
        raise ArgumentError("there is nothing to do: give a text or --in-file")
    with GGUFFile(model) as file:
        check_output("--output", output, [*file.files, text, *(in_files or [])], force=force)
        before = [ImportanceMatrix.read(path) for path in in_files or []]
        if text is None:
            ImportanceMatrix.merge(before).write(output)
            print(f"{output}: {count(len(before), 'file')} added up")
            return
        source = read_text(text)
        with source.named():
            rows = chunks(Tokenizer.from_gguf(file), source.text, ctx, parse_special=parse_special)
    n_all = len(rows)
    rows = rows[from_chunk:][:n_chunks]
    if len(rows) == 0:
        raise ArgumentError(
            f"--from-chunk {from_chunk} leaves nothing: {text} has {count(n_all, 'chunk')} of {ctx} tokens"
        )
    warn_without_gpu(n_gpu_layers)
    loading = {"n_gpu_layers": n_gpu_layers, "n_threads": n_threads, "repack": repack, "cache_packed": cache_packed}
    with (
        load_model(model, **loading) as opened,
        ImatrixCollector(opened, n_ctx=ctx, n_threads=n_threads) as collector,
    ):

        def result() -> ImportanceMatrix:
            sums = collector.result(process_output=process_output, dataset=str(text))
            return ImportanceMatrix.merge([*before, sums])

        def options_to_go_on(n_done: int) -> str:
            left = "" if n_chunks is None else f" --chunks {len(rows) - n_done}"
            in_place = ", in place of the --in-file given," if before else ""
            name = shlex.quote(str(output))
            return f"--in-file {name} --from-chunk {from_chunk + n_done}{left}{in_place} and another --output"

        _run(collector, rows, result, output, options_to_go_on)
    print(f"{output}: {count(len(rows), 'chunk')} of {ctx} tokens")


def _run(
    collector: ImatrixCollector,
    rows: npt.NDArray[np.int32],
    result: Callable[[], ImportanceMatrix],
    output: Path,
    options_to_go_on: Callable[[int], str],
) -> None:
    """Write what all rows give, or what whole rows gave before a stop: the rest can be added to that."""
    result()  # files of another model are refused here
    saved = time.monotonic()

    def report(n: int, _: int) -> None:
        update(collector.n_chunks * rows.shape[1] + n, f"chunk {collector.n_chunks + 1} of {len(rows)}")

    try:
        with progress_bar("reading", rows.size) as update:
            for row in rows:
                collector.add(row, report)
                if time.monotonic() - saved >= _SAVE_SECONDS:
                    result().write(output)
                    saved = time.monotonic()
    except (KeyboardInterrupt, Stopped):
        n_done = collector.n_chunks
        if n_done > 0:
            result().write(output)
            how = "" if n_done == len(rows) else f"; to go on, give {options_to_go_on(n_done)}"
            print(f"commandr: stopped; {output} holds {n_done} of {count(len(rows), 'chunk')}{how}", file=sys.stderr)
        raise
    result().write(output)
