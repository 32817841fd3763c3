"""The same file, machine and threads in commandr-gguf and in llama.cpp: loading, prefill, decode, peak memory.

    python tests/bench/compare_llama_cpp.py                  # writes the 8B file (4.9 GB), compares, deletes it
    python tests/bench/compare_llama_cpp.py --layers 4       # a quick look
    python tests/bench/compare_llama_cpp.py --model X.gguf   # a file of yours

Needs `make test-oracle`, which compiles llama-cpp-python with the flags of our own ggml. Each program runs in processes
of its own, in turns, so that what else the machine does strikes both; the figures are medians over the rounds.
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
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import oracles  # noqa: E402

Figures = dict[str, Any]


def measure(python: Path, worker: str, options: argparse.Namespace, model: Path) -> Figures:
    """One run of one program."""
    command = [str(python), str(HERE / worker), str(model), "--threads", str(options.threads)]
    command += ["--prompts", *map(str, options.prompts), "--generate", str(options.generate)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{worker} failed:\n{done.stderr[-4000:]}")
    figures: Figures = json.loads(done.stdout)
    return figures


def processor() -> str:
    """The machine's processor, as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def summarize(runs: dict[str, list[Figures]]) -> dict[str, dict[str, float]]:
    """Per figure: the median of each program and the median of the rounds' ratios, ours to theirs."""
    summary = {}
    for key in runs["commandr"][0]:
        if key == "tokens":
            continue
        pairs = list(zip((r[key] for r in runs["commandr"]), (r[key] for r in runs["llama.cpp"]), strict=True))
        summary[key] = {
            "commandr": statistics.median(a for a, _ in pairs),
            "llama.cpp": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(a / b for a, b in pairs),
        }
    return summary


def table(summary: dict[str, dict[str, float]]) -> str:
    """The summary as a table in Markdown."""
    lines = ["| | commandr-gguf | llama.cpp | ratio |", "|---|---|---|---|"]
    for key, values in summary.items():
        name = key.removesuffix("_bytes").removesuffix("_seconds").replace("_tokens_per_second", ", tokens/s")
        scale, unit = (1 / 2**30, " GiB") if key.endswith("_bytes") else (1, " s" if key.endswith("_seconds") else "")
        cells = [f"{values[program] * scale:.2f}{unit}" for program in ("commandr", "llama.cpp")]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} | {values['ratio']:.3f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare commandr-gguf with llama.cpp.")
    parser.add_argument("--model", type=Path, help="a GGUF file; without it one is written and deleted")
    parser.add_argument("--layers", type=int, help="layers of the file that is written (default: 32)")
    parser.add_argument("--type", default="Q4_K_M", help="type of the file that is written")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    theirs = oracles.FOLDER / "bin" / "python"
    if not theirs.exists():
        print(f"{theirs} is absent: run `make test-oracle` first", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        model = options.model
        if model is None:
            import write_model

            model = Path(folder) / "model.gguf"
            write_model.write_model(model, recipe=options.type, n_layers=options.layers)
        for _ in range(2):  # both programs shall find the file in the page cache
            with model.open("rb") as file:
                while file.read(1 << 24):
                    pass
        programs = {
            "commandr": (Path(sys.executable), "worker_commandr.py"),
            "llama.cpp": (theirs, "worker_llama_cpp.py"),
        }
        runs: dict[str, list[Figures]] = {name: [] for name in programs}
        for i in range(options.rounds):
            for name in sorted(programs, reverse=i % 2 == 1):
                runs[name].append(measure(*programs[name], options, model))
                print(f"round {i + 1}, {name}: {json.dumps(runs[name][-1])}", file=sys.stderr)
        size = model.stat().st_size
    summary = summarize(runs)
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    print(f"{now}, {processor()}, {options.threads} threads, {size / 1e9:.2f} GB, {options.rounds} rounds\n")
    print(table(summary))
    if options.json:
        report = {"date": now, "processor": processor(), "model_bytes": size, "summary": summary, "runs": runs}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
