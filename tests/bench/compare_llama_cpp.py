"""The same file, machine and threads in commandr-gguf and in llama.cpp: loading, prefill, decode, peak memory.

    python tests/bench/compare_llama_cpp.py                  # writes the 8B file (5.1 GB), compares, deletes it
    python tests/bench/compare_llama_cpp.py --layers 4       # a quick look
    python tests/bench/compare_llama_cpp.py --model X.gguf   # a file of yours
    python tests/bench/compare_llama_cpp.py --threads 1 --cpu-time      # on a machine with other work to do

Needs `make test-oracle`, which compiles llama-cpp-python with the flags of our own ggml. Each program runs in a process
of its own; they take turns with every step, so that what else the machine does strikes both. The figures are medians
over the rounds, the ratios medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import oracles  # noqa: E402

PROGRAMS = {
    "commandr-gguf": (Path(sys.executable), "worker_commandr.py"),
    "llama.cpp": (oracles.FOLDER / "bin" / "python", "worker_llama_cpp.py"),
}
DECODE_STEP = 8
Figures = dict[str, dict[str, list[float]]]
"""Figure -> program -> one value a round."""


class Worker:
    """A running program, see worker_common.py for what it understands. Use it in a `with` statement."""

    def __init__(self, program: str, model: Path, options: argparse.Namespace) -> None:
        python, script = PROGRAMS[program]
        n_ctx = max(options.prompts) + options.generate + DECODE_STEP
        command = [str(python), str(HERE / script), str(model), f"--threads={options.threads}", f"--n-ctx={n_ctx}"]
        command += ["--cpu-time"] if options.cpu_time else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, command: str) -> dict[str, Any]:
        """Send a command, wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} stopped at {command!r} with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.communicate()


def turns(i: int) -> list[str]:
    """The programs, in the order of round i."""
    return sorted(PROGRAMS, reverse=i % 2 == 1)


def measure_loading(model: Path, options: argparse.Namespace) -> Figures:
    """Load time and memory, each round in new processes, one program at a time."""
    figures: Figures = {name: {program: [] for program in PROGRAMS} for name in ("load, s", "peak memory, GiB")}
    for i in range(options.load_rounds):
        for program in turns(i):
            with Worker(program, model, options) as worker:
                figures["load, s"][program].append(worker("load")["seconds"])
                worker(f"prefill {max(options.prompts)}")
                worker(f"decode {DECODE_STEP}")
                memory = worker("memory")
                figures["peak memory, GiB"][program].append(memory["peak"] / 2**30)
                print(f"{program}: {memory}", file=sys.stderr)
    return figures


def measure_speed(model: Path, options: argparse.Namespace) -> Figures:
    """Prefill and decode, both programs loaded, in turns with every step."""
    prefills = [f"prefill of {n}, tokens/s" for n in options.prompts]
    figures: Figures = {name: {program: [] for program in PROGRAMS} for name in (*prefills, "decode, tokens/s")}
    with Worker("commandr-gguf", model, options) as ours, Worker("llama.cpp", model, options) as theirs:
        workers = {"commandr-gguf": ours, "llama.cpp": theirs}
        for worker in workers.values():
            worker("load")
            worker(f"prefill {max(options.prompts)}")  # the first time, pages are still being read
            worker("decode 2")
        for i in range(options.rounds):
            for name, n in zip(prefills, options.prompts, strict=True):
                for program in turns(i):
                    figures[name][program].append(n / workers[program](f"prefill {n}")["seconds"])
            seconds = dict.fromkeys(PROGRAMS, 0.0)
            tokens: dict[str, list[int]] = {program: [] for program in PROGRAMS}
            for step in range(options.generate // DECODE_STEP):
                for program in turns(i + step):
                    answer = workers[program](f"decode {DECODE_STEP}")
                    seconds[program] += answer["seconds"]
                    tokens[program] += answer["tokens"]
            for program in PROGRAMS:
                figures["decode, tokens/s"][program].append(len(tokens[program]) / seconds[program])
            print(
                f"round {i + 1}: {figures}; same tokens: {len(set(map(tuple, tokens.values()))) == 1}", file=sys.stderr
            )
    return figures


def table(figures: Figures) -> str:
    """Medians and ratios in Markdown."""
    lines = [f"| | {' | '.join(PROGRAMS)} | ratio |", "|---|---|---|---|"]
    for name, values in figures.items():
        ours, theirs = values.values()
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        lines.append(f"| {name} | {statistics.median(ours):.2f} | {statistics.median(theirs):.2f} | {ratio:.3f} |")
    return "\n".join(lines)


def processor() -> str:
    """The machine's processor, as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare commandr-gguf with llama.cpp.")
    parser.add_argument("--model", type=Path, help="a GGUF file; without it one is written and deleted")
    parser.add_argument("--layers", type=int, help="layers of the file that is written (default: 32)")
    parser.add_argument("--type", default="Q4_K_M", help="type of the file that is written")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load-rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time instead of the clock's")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    python = PROGRAMS["llama.cpp"][0]
    if not python.exists():
        print(f"{python} is absent: run `make test-oracle` first", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        model = options.model
        if model is None:
            import write_model

            model = Path(folder) / "model.gguf"
            write_model.write_model(model, recipe=options.type, n_layers=options.layers)
        with model.open("rb") as file:  # both programs shall find it in the page cache
            while file.read(1 << 24):
                pass
        size = model.stat().st_size
        figures = measure_speed(model, options)
        if options.load_rounds:
            figures |= measure_loading(model, options)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    clock = "CPU time" if options.cpu_time else "wall time"
    print(f"{now}, {processor()}, {options.threads} threads, {size / 1e9:.2f} GB, {options.rounds} rounds, {clock}\n")
    print(table(figures))
    if options.json:
        report = {"date": now, "processor": processor(), "model_bytes": size, "clock": clock, "figures": figures}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
