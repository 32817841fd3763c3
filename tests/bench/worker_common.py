"""What all programs' workers do alike: obey one command a line on standard input, answer with one line of JSON.

load          {"seconds", "features", "own", "file"}: what the program says about its build, memory as below
prefill N     {"seconds"} for N tokens into an empty sequence
decode N      {"seconds", "tokens"} for N more, each the most likely one
columns N     {"seconds"} for N more tokens at once with the logits of each, which are forgotten again
memory        {"peak", "own", "file"}: bytes; VmHWM, and what is resident now, the process's own and the file's
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Program(ABC):
    """A program with a model and one sequence."""

    @abstractmethod
    def load(self, options: argparse.Namespace) -> str:
        """Make it ready; returns what the program says about its build."""

    @abstractmethod
    def run(self, tokens: Sequence[int], n_new: int, *, all_logits: bool = False) -> int:
        """Given all tokens of the sequence and how many of them are new: compute those, with the logits of the last one
        or of all. Returns the most likely next token."""

    @abstractmethod
    def cut(self, n: int) -> None:
        """Forget all but the first n tokens."""


def memory() -> dict[str, int]:
    """See the top of this file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    keys = {"peak": "VmHWM", "own": "RssAnon", "file": "RssFile"}
    return {name: int(status[key].split()[0]) * 1024 for name, key in keys.items()}


def serve(program: Program, description: str) -> None:
    """Obey commands until standard input ends."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", help="a GGUF file; for transformers, the text of a config.json")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--n-ctx", type=int, required=True)
    options = parser.parse_args()
    tokens: list[int] = []
    for line in sys.stdin:
        command, n = line.split()[0], int((*line.split(), "0")[1])
        answer: dict[str, Any] = {}
        begin = time.perf_counter()
        if command == "load":
            answer["features"] = program.load(options)
            answer |= memory()
        elif command == "prefill":
            program.cut(0)
            tokens = [5, *(1000 + 37 * i % 20000 for i in range(n - 1))]  # any text of known tokens
            tokens.append(program.run(tokens, n))
        elif command == "decode":
            for _ in range(n):
                tokens.append(program.run(tokens, 1))
            answer["tokens"] = tokens[-n:]
        elif command == "columns":
            # The last token has not been computed yet.
            program.run([*tokens, *range(2000, 2000 + n - 1)], n, all_logits=True)
            answer["seconds"] = time.perf_counter() - begin
            program.cut(len(tokens) - 1)
        else:
            answer |= memory()
        answer.setdefault("seconds", time.perf_counter() - begin)
        print(json.dumps(answer), flush=True)
