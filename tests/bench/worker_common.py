"""What both programs' workers do alike: they read the same arguments, time the same steps and print the same figures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

Evaluate = Callable[[list[int], int], int]
"""Given all tokens of the sequence and how many of them are new: compute the rest, return the most likely next one."""


def arguments(description: str) -> argparse.Namespace:
    """The command line of a worker."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompts", type=int, nargs="+", required=True)
    parser.add_argument("--generate", type=int, required=True)
    return parser.parse_args()


def peak_memory() -> dict[str, int]:
    """Bytes: VmHWM, and what is resident now, split into the process's own and the file's."""
    status = dict(line.split(":", 1) for line in open("/proc/self/status", encoding="utf-8"))
    keys = {"peak_memory_bytes": "VmHWM", "own_memory_bytes": "RssAnon", "file_memory_bytes": "RssFile"}
    return {name: int(status[key].split()[0]) * 1024 for name, key in keys.items()}


def measure(options: argparse.Namespace, load: Callable[[], Any], restart: Callable[[], None], run: Evaluate) -> None:
    """Time loading, the prefill of each prompt and the generation after the last one; print one line of JSON.

    restart: forget the sequence.
    """
    begin = time.perf_counter()
    load()
    figures: dict[str, Any] = {"load_seconds": time.perf_counter() - begin}
    # Any text of known tokens; the first graph of each size is not counted.
    text = [5, *(1000 + 37 * i % 20000 for i in range(max(options.prompts)))]
    run(text[:32], 32)
    run(text[:33], 1)
    tokens: list[int] = []
    for n in options.prompts:
        restart()
        tokens = text[:n]
        begin = time.perf_counter()
        tokens.append(run(tokens, n))
        figures[f"prefill_{n}_tokens_per_second"] = n / (time.perf_counter() - begin)
    begin = time.perf_counter()
    for _ in range(options.generate):
        tokens.append(run(tokens, 1))
    figures["decode_tokens_per_second"] = options.generate / (time.perf_counter() - begin)
    figures |= peak_memory()
    figures["tokens"] = tokens[options.prompts[-1] :]
    json.dump(figures, sys.stdout)
