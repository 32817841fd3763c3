"""What both programs' workers do alike: obey one command a line on standard input, answer with one line of JSON.

load          {"seconds"}
prefill N     {"seconds"} for N tokens into an empty sequence
decode N      {"seconds", "tokens"} for N more, each the most likely one
memory        {"peak", "own", "file"}: bytes; VmHWM, and what is resident now, the process's own and the file's
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[[list[int], int], int]
"""Given all tokens of the sequence and how many of them are new: compute those, return the most likely next token."""


def arguments(description: str) -> argparse.Namespace:
    """The command line of a worker."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--n-ctx", type=int, required=True)
    parser.add_argument("--cpu-time", action="store_true", help="measure the process's CPU time")
    return parser.parse_args()


def memory() -> dict[str, int]:
    """See the top of this file."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines)
    keys = {"peak": "VmHWM", "own": "RssAnon", "file": "RssFile"}
    return {name: int(status[key].split()[0]) * 1024 for name, key in keys.items()}


def serve(cpu_time: bool, load: Callable[[], None], restart: Callable[[], None], run: Run) -> None:
    """Obey commands until standard input ends. restart: forget the sequence."""
    clock = time.process_time if cpu_time else time.perf_counter
    tokens: list[int] = []
    for line in sys.stdin:
        command, n = (*line.split(), "0")[:2]
        answer: dict[str, Any] = {}
        begin = clock()
        if command == "load":
            load()
        elif command == "prefill":
            restart()
            tokens = [5, *(1000 + 37 * i % 20000 for i in range(int(n) - 1))]  # any text of known tokens
            tokens.append(run(tokens, int(n)))
        elif command == "decode":
            for _ in range(int(n)):
                tokens.append(run(tokens, 1))
            answer["tokens"] = tokens[-int(n) :]
        else:
            answer |= memory()
        answer["seconds"] = clock() - begin
        print(json.dumps(answer), flush=True)
