"""Attention on one core over long contexts, ours and ggml's, and its share of a prompt's time.

python tests/bench/attention.py [--model 8b.gguf]

Seconds are CPU time for one layer of 32 heads with 128 dimensions, the best of some rounds. A model gives the time
that the rest of a layer takes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from commandr_gguf import Model, Session
from commandr_gguf.quantize import type_find

sys.path.insert(0, str(Path(__file__).parents[1]))

import c_programs

N_HEAD = 32
UBATCH = 512
HEADS_KV = {32: "MHA", 8: "GQA"}
DIM = 128


@dataclass(frozen=True)
class Case:
    """One operation."""

    kv_type: str
    n_head_kv: int
    n_window: int
    n_tokens: int
    n_kv: int

    def multiply_adds(self) -> int:
        """Of all pairs of a query row and a cell that it sees."""
        window = self.n_window or self.n_kv
        first = self.n_kv - self.n_tokens + 1
        return 2 * DIM * N_HEAD * sum(min(first + t, window) for t in range(self.n_tokens))

    def n_bytes(self) -> float:
        """Of the cache that is read."""
        bits = {"F16": 16, "Q8_0": 8.5}[self.kv_type]
        return 2 * DIM * self.n_head_kv * min(self.n_window or self.n_kv, self.n_kv) * bits / 8


def measure(program: Path, case: Case, rounds: int) -> tuple[float, float]:
    """Seconds of ours and of ggml's."""
    arguments = (type_find(case.kv_type), N_HEAD, case.n_head_kv, case.n_window, case.n_tokens, case.n_kv, 1, rounds)
    done = subprocess.run([str(program), *map(str, arguments)], check=True, capture_output=True, text=True)
    ours, ggml, _difference = map(float, done.stdout.split())
    return ours, ggml


def rest_of_layer(path: Path, program: Path, rounds: int) -> float:
    """Seconds of all but attention in a layer of a model, for a ubatch."""
    with Model(path) as model:
        best = float("inf")
        for _ in range(rounds):
            with Session(model, n_ctx=UBATCH, n_ubatch=UBATCH, n_threads=1) as session:
                begin = time.process_time()
                session.eval([5, *range(100, 100 + UBATCH - 1)], n_outputs=0)
                best = min(best, time.process_time() - begin)
        hp = model.hparams
        if hp.n_head != N_HEAD or hp.n_head_kv not in HEADS_KV:
            raise SystemExit(f"{path}: the model has {hp.n_head} heads, {hp.n_head_kv} of them for keys, not 32 and 8")
        # The last layer only fills its cache.
        attention = measure(program, Case("F16", hp.n_head_kv, 0, UBATCH, UBATCH), rounds)[0]
        return best / (hp.n_layer - 1) - attention


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare attention with ggml's.")
    parser.add_argument("--model", type=Path, help="a file of the 8B shape, for the share of a prompt's time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contexts", type=int, nargs="+", default=[4096, 16384, 32768])
    parser.add_argument("--tokens", type=int, nargs="+", default=[UBATCH, 1], help="of a batch")
    parser.add_argument("--types", nargs="+", default=["F16", "Q8_0"], help="of the cache; ggml takes minutes for Q8_0")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "attention"
        c_programs.compile_program(program, Path(__file__).with_suffix(".c"), "-O3")
        rest = rest_of_layer(options.model, program, options.rounds) if options.model else None
        if rest is not None:
            print(f"the rest of a layer: {rest:.3f} s for {UBATCH} tokens\n")
        print(
            "| tokens | context | heads | cache | ours, ms | ggml, ms | ratio | GFLOP/s | GB/s | share | ggml's share |"
        )
        print("|---" * 11 + "|")
        for n_tokens in options.tokens:
            for n_kv in options.contexts:
                for n_head_kv, kv_type, n_window in (
                    (32, "F16", 0),
                    (32, "Q8_0", 0),
                    (8, "F16", 0),
                    (8, "Q8_0", 0),
                    (8, "F16", 4096),
                ):
                    if n_window >= n_kv or kv_type not in options.types:
                        continue
                    case = Case(kv_type, n_head_kv, n_window, n_tokens, n_kv)
                    ours, ggml = measure(program, case, options.rounds * (1 if n_tokens > 1 else 10))
                    shares = [
                        "" if rest is None or n_tokens == 1 else f"{seconds / (rest + seconds):.0%}"
                        for seconds in (ours, ggml)
                    ]
                    window = f", window {n_window}" if n_window else ""
                    print(
                        f"| {n_tokens} | {n_kv} | {HEADS_KV[n_head_kv]}{window} | {kv_type} | {1e3 * ours:.1f} "
                        f"| {1e3 * ggml:.1f} | {ggml / ours:.2f} | {2e-9 * case.multiply_adds() / ours:.0f} "
                        f"| {1e-9 * case.n_bytes() / ours:.1f} | {' | '.join(shares)} |",
                        flush=True,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
