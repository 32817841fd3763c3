"""`commandr serve` beside llama-cpp-python's server and llama.cpp's own: many streams at once, one table a model.

    python tests/bench/server_load.py MODEL.gguf                        # all rows, 3 rounds
    python tests/bench/server_load.py MODEL.gguf --rows 16 --rounds 1 --json FILE      # a look; FILE collects rounds

Rows: `1`, `4` and `16` streams that begin at once, `16 shared` with a common preamble, and `newcomer 4` and `newcomer
15`: how long streams that run wait for a token while the prompt of one more is read. Each server has the same file,
threads and slots, and runs as a process of its own; they take turns row by row. Prompts are the same for all servers
and different for each stream and round. Every stream writes the same number of tokens, the most likely ones; end tokens
are forbidden. Figures are medians over the rounds, ratios medians of the rounds' ratios.

llama-cpp-python's server computes one request after the other and has no row with a newcomer.

Needs `python tests/oracle/setup.py --servers`. Write a model by write_model.py, or convert the embedded one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import load_servers
from load_client import Stream, run_newcomer, run_together
from load_report import report
from load_servers import Server, Setting
from load_texts import Texts

from commandr_gguf.devices import default_n_threads
from commandr_gguf.tokenizer import Tokenizer

ROWS = ("1", "4", "16", "16 shared", "newcomer 4", "newcomer 15")
PREAMBLE = 1024
"""Tokens that the prompts of `16 shared` have in common."""
QUIET = 24
"""Pieces of text of each stream before the newcomer."""
SPARE = 512
"""Tokens of a slot beside the newcomer's prompt."""


class Load:
    """Asks servers for streams.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        tokenizer = Tokenizer.from_gguf(options.model)
        self._texts = Texts(tokenizer)
        self._no_end = {str(token): -100 for token in sorted(tokenizer.end_of_generation)}
        # A token that is a part of a character gives no text, and its gap would be counted together with the next.
        texts = ((token, tokenizer.decode([token])) for token in range(len(tokenizer)))
        partial = (token for token, text in texts if not text or "\ufffd" in text or tokenizer.is_special(token))
        self._only_text = self._no_end | {str(token): -100 for token in partial}

    def measure(self, row: str, number: int, server: Server, port: int) -> dict[str, Any]:
        """One row of one round."""
        kind, _, count = row.rpartition(" ")
        if kind == "newcomer":
            return self._measure_newcomer(int(count), number, port)
        n = int(row.removesuffix(" shared"))
        preamble = self._texts.text(PREAMBLE, f"{number} {row}") + "\n" if row.endswith("shared") else ""
        bodies = [self._body(preamble + self._prompt(row, number, i), self._options.tokens) for i in range(n)]
        cpu, begin = _cpu(), time.perf_counter()
        streams = asyncio.run(run_together(bodies, port))
        seconds = time.perf_counter() - begin
        client = (_cpu() - cpu) / seconds
        for stream in streams:
            stream.check(self._options.tokens)
        return {
            "tokens_per_s": n * self._options.tokens / seconds,
            "first": [stream.times()[0] - stream.sent for stream in streams],
            "gaps": [gap for stream in streams for gap in stream.gaps()],
            "client": client,
        }

    def _measure_newcomer(self, n: int, number: int, port: int) -> dict[str, Any]:
        prompts = [self._prompt(f"newcomer {n}", number, i) for i in range(n)]
        n_tokens = SPARE + self._options.newcomer - 2 * self._options.prompt
        bodies = [self._body(prompt, n_tokens) | {"logit_bias": self._only_text} for prompt in prompts]
        newcomer = self._body(self._texts.text(self._options.newcomer, f"{number} newcomer {n}"), 1)
        streams, late = asyncio.run(run_newcomer(bodies, newcomer, port, n_quiet=QUIET))
        begin, end = late.sent, late.times()[0]
        return {
            "quiet": [gap for stream in streams for gap in _quiet(stream, begin)],
            "loaded": [gap for stream in streams for gap in stream.gaps(begin, end)],
            "first": [end - begin],
        }

    def _prompt(self, row: str, number: int, i: int) -> str:
        return self._texts.text(self._options.prompt, f"{number} {row} {i}")

    def _body(self, prompt: str, n_tokens: int) -> dict[str, Any]:
        return {
            "prompt": prompt,
            "max_tokens": n_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logit_bias": self._no_end,
        }


def _quiet(stream: Stream, newcomer: float) -> list[float]:
    """Gaps before the newcomer, without those beside other streams' prompts."""
    gaps = stream.gaps(end=newcomer)
    return gaps[QUIET // 4 : -1]


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def run_rounds(options: argparse.Namespace, chosen: Sequence[Server]) -> list[dict[str, Any]]:
    """All rows of all rounds, the servers taking turns; those that `--json` names come first."""
    records: list[dict[str, Any]] = []
    if options.json and options.json.exists():
        records = json.loads(options.json.read_text(encoding="utf-8"))
    first = 1 + max((record["round"] for record in records), default=0)
    load = Load(options)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = {}
        for i, server in enumerate(chosen):
            print(f"starting {server.name}", file=sys.stderr)
            ports[server.name] = stack.enter_context(load_servers.running(server, folder / f"{i}.log"))
            load.measure("1", 0, server, ports[server.name])  # the first touch of its memory
        for number in range(first, first + options.rounds):
            for row in options.rows:
                able = [server for server in chosen if server.together or "newcomer" not in row]
                turn = number % len(able)
                for server in (*able[turn:], *able[:turn]):
                    found = load.measure(row, number, server, ports[server.name])
                    records.append({"round": number, "row": row, "server": server.name, **found})
                    print(f"  {number}, {row}, {server.name}: {_brief(found)}", file=sys.stderr)
                if options.json:
                    options.json.write_text(json.dumps(records) + "\n", encoding="utf-8")
    return records


def _brief(found: dict[str, Any]) -> str:
    if "quiet" in found:
        quiet, loaded = statistics.median(found["quiet"]), max(found["loaded"])
        return f"{1000 * quiet:.0f} ms a token, at most {loaded / quiet:.1f} times that beside the newcomer"
    return f"{found['tokens_per_s']:.1f} tokens/s, the client took {found['client']:.0%} of a core"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare commandr-gguf's server with llama.cpp's two.")
    parser.add_argument("model", type=Path, help="a GGUF file")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="that each stream writes")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each stream's own prompt")
    parser.add_argument("--newcomer", type=int, default=4096, help="tokens of a newcomer's prompt")
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--servers", nargs="+", choices=load_servers.NAMES, default=load_servers.NAMES)
    parser.add_argument("--json", type=Path, help="write all figures there, beside those that it holds already")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    setting = Setting(options.model, options.threads, options.slots, options.newcomer + SPARE)
    chosen = [server for server in load_servers.servers(setting) if server.name in options.servers]
    missing = [server.missing for server in chosen if server.missing]
    if missing:
        print(*missing, sep="\n", file=sys.stderr)
        return 2
    records = run_rounds(options, chosen)
    print(f"{options.model.name}, {options.threads} threads, {options.slots} slots\n")
    print(*report(records), "", *(f"- {server.name}: {server.version()}" for server in chosen), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
