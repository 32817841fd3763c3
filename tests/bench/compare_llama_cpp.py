"""commandr-gguf beside llama.cpp and transformers on the CPU, in one table with the aims and the machine's limits.

    python tests/bench/compare_llama_cpp.py                       # writes the files it needs (8.5 GB), deletes them
    python tests/bench/compare_llama_cpp.py --layers 3 --rounds 1       # a quick look
    python tests/bench/compare_llama_cpp.py --rows "1b" "Q4_K_M decode"   # only rows with one of these in their names
    python tests/bench/compare_llama_cpp.py --model X.gguf              # a file of yours

Rows: `8b Q4_K_M` and `8b Q8_0` with `prefill LEVEL`, `decode 128`, `decode 4096`, `verify` and `memory`; `1b Q4_K_M`
with `prefill LEVEL` and `decode 128`, beside transformers as well. LEVEL is a set of instructions, each that the
processor has: amx, avx512 (with VNNI), avxvnni, avx2; the other rows are measured with the best.

Needs `python tests/oracle/setup.py --variants`: llama.cpp compiled for this processor, for AVX2 alone and, by clang,
for AMX; and our program with ggml's prebuilt AVX2 libraries. Each program runs in a process of its own; they take turns
with every step, so that what else the machine does strikes all. The figures are medians over the rounds, the results
medians of the rounds' ratios; 8B files need three times their size in memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import programs
import roofline
import rounds
import rows
import sizes
import write_model
from rows import Part

from commandr_gguf.devices import default_n_threads

BEST = ("prefill", "decode 128", "decode 4096", "verify", "memory")
SPARE = 64  # positions behind the longest context, for what is decoded there


def parts(options: argparse.Namespace) -> Iterator[Part]:
    """What is to be measured, file by file."""
    best, *others = programs.levels()
    files = [options.model.name] if options.model else [f"8b {file_type}" for file_type in options.types]
    candidates = [
        Part(file, level, BEST if level == best else ("prefill",)) for file in files for level in (best, *others)
    ]
    if not options.model:
        candidates.append(Part("1b Q4_K_M", best, ("prefill", "decode 128")))
    for part in candidates:
        wanted = tuple(m for m in part.measures if any(text in part.row_name(m) for text in options.rows))
        if wanted:
            yield Part(part.file, part.level, wanted)


def programs_of(part: Part, options: argparse.Namespace) -> list[programs.Program]:
    """Ours first. Those that are not installed are named on standard error and left out."""
    found = [programs.ours(part.level, options.python_avx2), programs.llama_cpp(part.level)]
    if part.small:
        builds = {programs.llama_cpp(level) for level in programs.levels() if level != "avx2"} or {found[1]}
        found = [found[0], *sorted(builds, key=lambda program: program.name), programs.transformers()]
    for program in found:
        if program.missing:
            print(f"{part.file}, {part.level}, {program.name}: {program.missing}", file=sys.stderr)
    return [program for program in found if not program.missing]


def context_of(part: Part, n_rounds: int) -> int:
    """Tokens that a part's programs have room for."""
    return max([rounds.PROMPT, *rounds.contexts(part.measures)]) + SPARE + rounds.DECODE_STEP * n_rounds


def measure(part: Part, model: Path, options: argparse.Namespace, scratch: Path) -> rounds.Figures | None:
    """All figures of a part; None where there is nothing to compare."""
    chosen = programs_of(part, options)
    if len(chosen) < 2 or chosen[0].name != programs.OURS:
        return None
    n_ctx = context_of(part, options.rounds)
    machine = rounds.Machine(
        roofline.reader(options.threads), roofline.arithmetic(part.level, options.threads, scratch)
    )
    with contextlib.ExitStack() as stack:
        workers = []
        for program in chosen:
            name = str(model)
            if program.script == "worker_transformers.py":
                name = json.dumps(sizes.config_json("1b", options.layers, transformers=5))
            workers.append(stack.enter_context(programs.Worker(program, name, options.threads, n_ctx)))
        return rounds.measure_all(workers, part.measures, options.rounds, machine)


@contextlib.contextmanager
def model_file(part: Part, options: argparse.Namespace, scratch: Path) -> Iterator[Path]:
    """A part's file, in the page cache for all programs; deleted afterwards unless it is the user's."""
    path: Path = options.model or scratch / f"{part.file.replace(' ', '-')}.gguf"
    if not path.exists():
        for other in scratch.glob("*.gguf"):
            other.unlink()
        size, recipe = part.file.split()
        print(f"writing {path.name}", file=sys.stderr)
        write_model.write_model(path, size=size, recipe=recipe, n_layers=options.layers)
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
    yield path


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare commandr-gguf with llama.cpp and transformers.")
    parser.add_argument("--rows", nargs="+", default=[""], help="only rows with one of these in their names")
    parser.add_argument("--model", type=Path, help="a GGUF file instead of those that are written and deleted")
    parser.add_argument("--layers", type=int, help="layers of the files that are written (default: the shapes' own)")
    parser.add_argument("--types", nargs="+", default=["Q4_K_M", "Q8_0"], help="types of the 8B files")
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--python-avx2", type=Path, default=programs.AVX2_PYTHON, help="ours with an AVX2 ggml")
    parser.add_argument("--json", type=Path, help="write all figures there")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    report: dict[str, Any] = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processor": programs.processor(),
        "threads": options.threads,
        "last_level_cache": roofline.last_level_cache(),
        "parts": [],
    }
    lines: list[str] = []
    builds: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        scratch = Path(folder)
        for part in parts(options):
            print(f"{part.file}, {part.level}: {', '.join(part.measures)}", file=sys.stderr)
            with model_file(part, options, scratch) as model:
                figures = measure(part, model, options, scratch)
                if figures is None:
                    continue
                file_size = model.stat().st_size
                lines += rows.rows(part, figures, roofline.Need.of(model), file_size, context_of(part, options.rounds))
            builds |= {f"{name} ({part.level})": text for name, text in figures.builds.items()}
            report["parts"].append({"file": part.file, "level": part.level, "bytes": file_size} | vars(figures))
    print(f"{report['date']}, {report['processor']}, {options.threads} threads, {options.rounds} rounds\n")
    print(rows.HEADER, *lines, "", *(f"- {name}: {text}" for name, text in builds.items()), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if lines else 2


if __name__ == "__main__":
    sys.exit(main())
