"""The command `commandr bench`."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from commandr_gguf.cli import options
from commandr_gguf.cli.format import size
from commandr_gguf.cli.loading import load_model, set_verbose, warn_without_gpu
from commandr_gguf.devices import default_n_threads, read_bandwidth
from commandr_gguf.errors import ArgumentError
from commandr_gguf.model import Model
from commandr_gguf.sampling import Sampler, SamplingParams
from commandr_gguf.session import Session


def bench(
    model: options.ModelPath,
    n_prompt: Annotated[int, typer.Option("--prompt", "-p", help="Tokens of the prompt.")] = 512,
    n_generate: Annotated[int, typer.Option("--generate", "-n", help="Tokens generated after it.")] = 64,
    repetitions: Annotated[int, typer.Option("--repetitions", "-r", help="Runs; the median counts.")] = 3,
    n_ubatch: Annotated[int, typer.Option("--ubatch", help="Most tokens in one graph.")] = 512,
    as_json: options.AsJson = False,
    n_gpu_layers: options.GpuLayers = 0,
    n_threads: options.Threads = 0,
    type_k: options.TypeK = "f16",
    type_v: options.TypeV = "f16",
    mmap: Annotated[bool, typer.Option(help="Use CPU weights in place, mapped from the file.")] = True,
    repack: options.Repack = True,
    cache_packed: options.CachePacked = False,
    verbose: options.Verbose = False,
) -> None:
    """Measure prefill and decode speed, with the machine's memory bandwidth beside them.

    Decoding reads every weight once per token, so bandwidth divided by the size of the weights is its limit.

    For example: `commandr bench command-r.gguf --prompt 512 --generate 64 --threads 8 --json`
    """
    set_verbose(verbose)
    for name, value in (("--prompt", n_prompt), ("--generate", n_generate), ("--repetitions", repetitions)):
        if value < 1:
            raise ArgumentError(f"{name} must be 1 or more, not {value}")
    warn_without_gpu(n_gpu_layers)
    n_threads = n_threads or default_n_threads()
    started = time.perf_counter()
    loading = {"use_mmap": mmap, "repack": repack, "cache_packed": cache_packed}
    with load_model(model, n_gpu_layers=n_gpu_layers, n_threads=n_threads, **loading) as opened:
        load_seconds = time.perf_counter() - started
        with Session(
            opened,
            n_ctx=n_prompt + n_generate,
            n_ubatch=n_ubatch,
            n_threads=n_threads,
            type_k=type_k,
            type_v=type_v,
        ) as session:
            session_seconds = time.perf_counter() - started - load_seconds
            runs = [_run(opened, session, n_prompt, n_generate) for _ in range(repetitions)]
        weights = sum(tensor.size for tensor in opened.gguf.tensors)
    prefill, decode = zip(*runs, strict=True)
    report = {
        "model": os.fspath(model),
        "n_prompt": n_prompt,
        "n_generate": n_generate,
        "n_threads": n_threads,
        "n_gpu_layers": n_gpu_layers,
        "type_k": type_k,
        "type_v": type_v,
        "repetitions": repetitions,
        "load_seconds": load_seconds,
        "session_seconds": session_seconds,
        "prefill_tokens_per_second": statistics.median(n_prompt / t for t in prefill),
        "decode_tokens_per_second": statistics.median(n_generate / t for t in decode),
        "prefill_seconds": list(prefill),
        "decode_seconds": list(decode),
        "weight_bytes": weights,
        "peak_memory_bytes": _peak_memory(),
        # Last: it touches memory of its own, which must not count as the model's.
        "read_bytes_per_second": read_bandwidth(n_threads),
    }
    if as_json:
        print(json.dumps(report))
    else:
        _print(model, report)


def _run(model: Model, session: Session, n_prompt: int, n_generate: int) -> tuple[float, float]:
    """Seconds of the prompt and of the generation after it, sampling included."""
    n_vocab = model.hparams.n_vocab
    tokens = np.random.default_rng(0).integers(0, n_vocab, n_prompt).tolist()
    sampler = Sampler(n_vocab, SamplingParams(temperature=0))
    session.seq_rm(0)
    started = time.perf_counter()
    session.eval(tokens)
    prefilled = time.perf_counter()
    for _ in range(n_generate):
        tokens.append(session.sample(sampler, tokens)[0])
        session.eval(tokens)
    return prefilled - started, time.perf_counter() - prefilled


def _peak_memory() -> int:
    """Bytes, pages of the mapped file included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _print(path: Path, report: dict[str, Any]) -> None:
    decode_bytes = report["decode_tokens_per_second"] * report["weight_bytes"]
    bandwidth = report["read_bytes_per_second"]
    share = f", {decode_bytes / bandwidth:.0%} of the bandwidth" if bandwidth else ""
    print(f"{path.name}, {size(report['weight_bytes'])}, {report['n_threads']} threads")
    print(f"load      {report['load_seconds']:9.2f} s")
    print(f"prefill   {report['prefill_tokens_per_second']:9.2f} tokens/s  ({report['n_prompt']} tokens)")
    print(f"decode    {report['decode_tokens_per_second']:9.2f} tokens/s  ({report['n_generate']} tokens{share})")
    print(f"bandwidth {size(bandwidth):>9}/s")
    print(f"memory    {size(report['peak_memory_bytes']):>9}")
