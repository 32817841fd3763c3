"""The command `commandr compare`."""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from commandr_gguf.cli import options
from commandr_gguf.cli.format import size
from commandr_gguf.cli.loading import load_model, set_verbose, warn_without_gpu
from commandr_gguf.cli.progress import progress_bar
from commandr_gguf.cli.scores import finite, print_scores
from commandr_gguf.cli.texts import NChunks, OptionalChunkCtx, read_text
from commandr_gguf.errors import ArgumentError, FormatError, integer
from commandr_gguf.gguf_file import GGUFFile, TensorInfo
from commandr_gguf.hparams import HParams
from commandr_gguf.model import Model
from commandr_gguf.quality.base_file import BaseReader, write_base
from commandr_gguf.quality.chunks import DEFAULT_N_CTX, MIN_N_CTX, Chunks
from commandr_gguf.quality.evaluate import open_session
from commandr_gguf.quality.scores import Progress, Scores, score
from commandr_gguf.quality.tensor_error import TensorError, TensorPair, common_elements, compare_tensors
from commandr_gguf.quality.tensor_rows import TensorRows, n_elements
from commandr_gguf.session import Session
from commandr_gguf.tokenizer import Tokenizer

_PLAIN_WIDTH = 200  # lines of a table that goes to a file or a pipe are not cut
_WIDTH_WITH_SHAPES = 100


_ORDERS = ("file", "error", "size")


def _order(value: str) -> str:
    if value not in _ORDERS:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(_ORDERS)}")
    return value


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The GGUF file to compare with.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another GGUF file of the same model.", show_default=False)],
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="TEXT", help="Also evaluate both on this text file.", show_default=False),
    ] = None,
    n_ctx: OptionalChunkCtx = None,
    n_chunks: NChunks = None,
    sort: Annotated[
        str,
        typer.Option(
            "--sort",
            metavar="|".join(_ORDERS),
            callback=_order,
            help="As in the file, or the largest error or size first.",
        ),
    ] = "file",
    as_json: options.AsJson = False,
    n_gpu_layers: options.GpuLayers = 0,
    n_threads: options.Threads = 0,
    repack: options.Repack = True,
    cache_packed: options.CachePacked = False,
    verbose: options.Verbose = False,
) -> None:
    """Compare two files of one model: types, sizes and errors of the tensors, and on a text their predictions.

    The error of a tensor is the root mean square of B - A by that of A. On a text, A is evaluated first, and its
    log-probabilities are kept in the folder for temporary files ($TMPDIR) until B is compared with them: two bytes for
    each scored token and entry of the vocabulary, which is less than a second model in memory.

    For example:

    `commandr compare command-r-BF16.gguf command-r-Q4_K_M.gguf --sort error`

    `commandr compare command-r-Q8_0.gguf command-r-Q4_K_M.gguf --text wiki.txt --chunks 20`
    """
    set_verbose(verbose)
    integer("--threads", n_threads, 0)
    _check_chunking(text, n_ctx, n_chunks)
    with GGUFFile(a) as file_a, GGUFFile(b) as file_b:
        _check_model(file_a)
        _check_model(file_b)
        chunks = None
        if text is not None:
            tokenizer = _common_tokenizer(file_a, file_b)
            chunks = read_text(text).chunks(tokenizer, n_ctx or DEFAULT_N_CTX, n_chunks)
        pairs = _compare_tensors(file_a, file_b, n_threads)
    report: dict[str, Any] = {"a": os.fspath(a), "b": os.fspath(b), **_describe(_sorted(pairs, sort))}
    if chunks is not None:
        warn_without_gpu(n_gpu_layers)
        loading = {"n_gpu_layers": n_gpu_layers, "repack": repack, "cache_packed": cache_packed}
        scores = _score_both(a, b, chunks, n_threads, loading)
        report["text"] = {"n_ctx": chunks.n_ctx, "n_chunks": len(chunks), **scores.summary()}
    if as_json:
        print(json.dumps(finite(report)))
    else:
        _print(report)


def _check_chunking(text: Path | None, n_ctx: int | None, n_chunks: int | None) -> None:
    for option, value, low in (("--ctx", n_ctx, MIN_N_CTX), ("--chunks", n_chunks, 1)):
        if value is not None:
            integer(option, value, low)
            if text is None:
                raise ArgumentError(f"{option} says how a text is read: give one with --text")


def _check_model(file: GGUFFile) -> None:
    """Raises FormatError for GGUF files of another content, such as importance matrices."""
    kind = file.get("general.type", "model")
    if kind != "model" or "general.architecture" not in file:
        what = "" if kind == "model" else f": its general.type is {kind}"
        raise FormatError(f"{file.path}: the GGUF file is no model{what}")


def _common_tokenizer(a: GGUFFile, b: GGUFFile) -> Tokenizer:
    """Raises ArgumentError when the files do not have the same tokens."""
    key = "tokenizer.ggml.tokens"
    if HParams.from_gguf(a).n_vocab != HParams.from_gguf(b).n_vocab or a.get(key) != b.get(key):
        raise ArgumentError(f"{a.path} and {b.path} have different vocabularies, so that --text cannot compare them")
    return Tokenizer.from_gguf(a)


def _compare_tensors(file_a: GGUFFile, file_b: GGUFFile, n_threads: int) -> list[TensorPair]:
    rows_a, rows_b = TensorRows(file_a), TensorRows(file_b)
    total = common_elements(rows_a, rows_b)
    if total == 0:
        raise ArgumentError(f"{file_a.path} and {file_b.path} have no tensor in common, of one name and shape")
    done = 0
    with progress_bar("comparing tensors", total) as update:

        def advance(n: int) -> None:
            nonlocal done
            done += n
            update(done, "")

        return compare_tensors(rows_a, rows_b, n_threads=n_threads, progress=advance)


def _score_both(a: Path, b: Path, chunks: Chunks, n_threads: int, loading: dict[str, Any]) -> Scores:
    """B's scores with A as the base."""
    with TemporaryDirectory(prefix="commandr-") as folder:
        path = Path(folder) / "base"
        with ExitStack() as opened:
            model, session, progress = _open(opened, a, chunks, n_threads, loading)
            save = opened.enter_context(write_base(path, chunks, model.hparams.n_vocab))
            score(session, chunks, save=save, progress=progress)
        with ExitStack() as opened:
            _, session, progress = _open(opened, b, chunks, n_threads, loading)
            base = opened.enter_context(BaseReader(path))
            return score(session, chunks, base=base, progress=progress)


def _open(
    opened: ExitStack, path: Path, chunks: Chunks, n_threads: int, loading: dict[str, Any]
) -> tuple[Model, Session, Progress]:
    """A model, a session, and a bar, all of which end with `opened`."""
    model = opened.enter_context(load_model(path, n_threads=n_threads, **loading))
    session = opened.enter_context(open_session(model, chunks, n_threads=n_threads))
    update = opened.enter_context(progress_bar(path.name, len(chunks)))
    return model, session, lambda done, value: update(done, f"perplexity {value:.4f}")


def _sorted(pairs: list[TensorPair], order: str) -> list[TensorPair]:
    """In the order wanted; what has no error comes last, and what is not finite first."""

    def error(pair: TensorPair) -> float:
        if pair.error is None:
            return -1.0
        return math.inf if math.isnan(pair.error.relative) else pair.error.relative

    def n_bytes(pair: TensorPair) -> int:
        return max(tensor.size for tensor in (pair.a, pair.b) if tensor is not None)

    if order == "error":
        return sorted(pairs, key=error, reverse=True)
    return sorted(pairs, key=n_bytes, reverse=True) if order == "size" else pairs


def _describe(pairs: list[TensorPair]) -> dict[str, Any]:
    """What `--json` prints of the tensors. Sizes are bytes; errors are null where there is nothing to compare."""
    tensors = [
        {"name": pair.name, "a": _describe_tensor(pair.a), "b": _describe_tensor(pair.b)} | _describe_error(pair.error)
        for pair in pairs
    ]
    total = sum((pair.error for pair in pairs if pair.error is not None), TensorError())
    totals = {key: _total([getattr(pair, key) for pair in pairs]) for key in ("a", "b")}
    return {"tensors": tensors, "total": totals | _describe_error(total)}


def _describe_tensor(tensor: TensorInfo | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {"type": tensor.type, "shape": list(tensor.shape), "bytes": tensor.size}


def _describe_error(error: TensorError | None) -> dict[str, float | None]:
    if error is None:
        return {"relative_rms_error": None, "largest_error": None, "cosine": None}
    return {"relative_rms_error": error.relative_rms, "largest_error": error.largest, "cosine": error.cosine}


def _total(tensors: list[TensorInfo | None]) -> dict[str, float]:
    present = [tensor for tensor in tensors if tensor is not None]
    n_bytes = sum(tensor.size for tensor in present)
    elements = sum(map(n_elements, present))
    return {"bytes": n_bytes, "elements": elements, "bits_per_weight": 8 * n_bytes / max(elements, 1)}


def _print(report: dict[str, Any]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH, color_system=None)
    table = Table(box=None, pad_edge=False)
    with_shapes = console.width >= _WIDTH_WITH_SHAPES
    for column in ("tensor", *(["shape"] if with_shapes else [])):
        table.add_column(column, no_wrap=True)
    for column in ("A", "B", "size of A", "size of B", "error", "largest"):
        table.add_column(column, justify="right", no_wrap=True)
    for entry in report["tensors"]:
        a, b = entry["a"], entry["b"]
        shapes = dict.fromkeys("x".join(map(str, tensor["shape"])) for tensor in (a, b) if tensor)
        types = (tensor["type"] if tensor else "absent" for tensor in (a, b))
        sizes = (size(tensor["bytes"]) if tensor else "" for tensor in (a, b))
        names = (entry["name"], " / ".join(shapes)) if with_shapes else (entry["name"],)
        table.add_row(*names, *types, *sizes, *_errors(entry))
    console.print(table)
    total = report["total"]
    print()
    for name in ("a", "b"):
        figures = total[name]
        print(f"{name.upper()}  {size(figures['bytes']):>10}  {figures['bits_per_weight']:.2f} bits per weight")
    error, largest = _errors(total)
    print(f"error {error}, largest {largest}, cosine {total['cosine']:.6f}")
    if "text" in report:
        print()
        print_scores(report["text"])


def _errors(entry: dict[str, Any]) -> tuple[str, str]:
    if entry["relative_rms_error"] is None:
        return "", ""
    return f"{entry['relative_rms_error']:.3%}", f"{entry['largest_error']:.3g}"
