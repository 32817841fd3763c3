"""From one BF16 checkpoint to Q4_K_M and Q8_0, by `python -m convert` and by llama.cpp's converter and quantizer.

    python tests/bench/convert_vs_llama_cpp.py               # 1.07e9 weights (2.1 GB), written and deleted
    python tests/bench/convert_vs_llama_cpp.py --layers 2    # a quick look
    python tests/bench/convert_vs_llama_cpp.py --threads 1

Needs `make test-oracle`, which installs llama.cpp and what its converter needs. Each step is a process of its own; the
programs take turns, the checkpoint lies in the page cache for all of them. Wall time and CPU time are those of the
whole process, its start included (of llama.cpp's quantizer: of the call alone, since it is called through Python);
memory is the largest resident size, with what is mapped; bytes are those of the files that a way writes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

import data  # noqa: E402
import oracles  # noqa: E402
import shapes  # noqa: E402
import tiny_tokenizer  # noqa: E402

CONFIG: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 256000,
    "rope_theta": 4000000.0,
}
FILE_TYPES = {"Q4_K_M": 15, "Q8_0": 7}

QUANTIZE = """
import ctypes, json, os, resource, sys, time
import llama_cpp
silent = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(silent, None)
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(sys.argv[3]), int(sys.argv[4])
usage = resource.getrusage(resource.RUSAGE_SELF)
cpu, wall = usage.ru_utime + usage.ru_stime, time.perf_counter()
status = llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params))
wall = time.perf_counter() - wall
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([wall, usage.ru_utime + usage.ru_stime - cpu, usage.ru_maxrss * 1024]))
raise SystemExit(status)
"""


@dataclass(frozen=True)
class Cost:
    """Of one or more steps: seconds, seconds of all cores, bytes."""

    wall: float
    cpu: float
    memory: int
    written: int

    def then(self, other: Cost) -> Cost:
        """Both steps, one after the other."""
        return Cost(
            self.wall + other.wall,
            self.cpu + other.cpu,
            max(self.memory, other.memory),
            self.written + other.written,
        )


def write_checkpoint(folder: Path, n_layers: int, seed: int = 0) -> None:
    """Normally distributed weights in BF16, in two shards; the real tokenizer where it has been fetched."""
    config = shapes.config_json("gqa", num_hidden_layers=n_layers, **CONFIG)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = data.cache_dir() / "command-r-plus"
    if (tokenizer / "tokenizer.json").exists():
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tokenizer / name, folder / name)
    else:
        tiny_tokenizer.write_tokenizer(folder)
    all_shapes = shapes.tensor_shapes(config)
    names = list(all_shapes)
    rng = np.random.default_rng(seed)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[: len(names) // 8], names[len(names) // 8 :])):
        file = f"model-{i + 1:05d}-of-00002.safetensors"
        weight_map |= dict.fromkeys(part, file)
        header: dict[str, Any] = {}
        end = 0
        for name in part:
            size = 2 * int(np.prod(all_shapes[name]))
            header[name] = {"dtype": "BF16", "shape": list(all_shapes[name]), "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name in part:
                left, width = int(np.prod(all_shapes[name])), all_shapes[name][-1]
                while left > 0:
                    values = rng.standard_normal(min(left, 1 << 24), np.float32) / np.float32(np.sqrt(width))
                    out.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                    left -= values.size
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def run(command: Sequence[object], out: Path, environment: Mapping[str, str] | None = None) -> Cost:
    """Run a step that writes `out`."""
    started = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | dict(environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command} failed:\n{said[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, out.stat().st_size)


def convert(checkpoint: Path, folder: Path, file_type: str, n_threads: int) -> Cost:
    """Ours: one step."""
    out = folder / "ours.gguf"
    command = [sys.executable, "-m", "convert", checkpoint, "-o", out, "--type", file_type, "--threads", n_threads]
    cost = run([*command, "--force", "--quiet"], out)
    out.unlink()
    return cost


def llama_cpp_convert(checkpoint: Path, out: Path, out_type: str) -> Cost:
    """llama.cpp's converter alone."""
    environment = {"PYTHONPATH": str(oracles.FOLDER / "transformers4"), "HF_HUB_OFFLINE": "1"}
    command = [python(), converter(), checkpoint, "--outfile", out, "--outtype", out_type]
    return run(command, out, environment)


def llama_cpp_two_steps(checkpoint: Path, folder: Path, file_type: str, n_threads: int) -> Cost:
    """llama.cpp's converter to BF16, then its quantizer."""
    between, out = folder / "bf16.gguf", folder / "theirs.gguf"
    first = llama_cpp_convert(checkpoint, between, "bf16")
    command = [python(), "-c", QUANTIZE, between, out, FILE_TYPES[file_type], n_threads]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    wall, cpu, memory = json.loads(done.stdout)
    second = Cost(wall, cpu, memory, out.stat().st_size)
    between.unlink()
    out.unlink()
    return first.then(second)


def llama_cpp_direct(checkpoint: Path, folder: Path, file_type: str, n_threads: int) -> Cost:
    """llama.cpp's converter straight to Q8_0, the only quantized type that it knows."""
    del file_type, n_threads
    out = folder / "theirs.gguf"
    cost = llama_cpp_convert(checkpoint, out, "q8_0")
    out.unlink()
    return cost


def python() -> Path:
    """The oracles' interpreter."""
    return oracles.FOLDER / "bin" / "python"


def converter() -> Path:
    """llama.cpp's convert_hf_to_gguf.py."""
    return data.cache_dir() / "llama-cpp" / "convert_hf_to_gguf.py"


Way = Callable[[Path, Path, str, int], Cost]
WAYS: dict[str, dict[str, Way]] = {
    "Q4_K_M": {"python -m convert": convert, "llama.cpp, two steps": llama_cpp_two_steps},
    "Q8_0": {
        "python -m convert": convert,
        "llama.cpp, directly": llama_cpp_direct,
        "llama.cpp, two steps": llama_cpp_two_steps,
    },
}


def median_of(costs: Sequence[Cost], field: str) -> float:
    return float(statistics.median(getattr(cost, field) for cost in costs))


def table(results: Mapping[str, Mapping[str, Sequence[Cost]]]) -> str:
    """Medians in Markdown, and the ratios of ours to each other way, medians over the rounds."""
    lines = ["| | wall, s | CPU, s | peak memory, GiB | written, GB | ours / this, wall | CPU | memory |", "|---|" * 1]
    lines[1] = "|---" * 8 + "|"
    for file_type, ways in results.items():
        ours = next(iter(ways.values()))
        for way, costs in ways.items():
            ratios = [
                statistics.median(getattr(a, field) / getattr(b, field) for a, b in zip(ours, costs, strict=True))
                for field in ("wall", "cpu", "memory")
            ]
            figures = (
                f"{median_of(costs, 'wall'):.1f} | {median_of(costs, 'cpu'):.1f} | "
                f"{median_of(costs, 'memory') / 2**30:.2f} | {median_of(costs, 'written') / 1e9:.2f}"
            )
            shown = ["" if costs is ours else f"{ratio:.2f}" for ratio in ratios]
            lines.append(f"| {file_type}, {way} | {figures} | {' | '.join(shown)} |")
    return "\n".join(lines)


def disk_speed(folder: Path, n_bytes: int) -> float:
    """Bytes a second of writing and syncing a file."""
    block, path = os.urandom(1 << 24), folder / "speed"
    started = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(max(1, n_bytes >> 24)):
            file.write(block)
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    size = path.stat().st_size
    path.unlink()
    return size / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare conversions with llama.cpp's.")
    parser.add_argument("--layers", type=int, default=9, help="of the checkpoint; 9 make 1.07e9 weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--types", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    for needed in (python(), converter()):
        if not needed.exists():
            print(f"{needed} is absent: run `make test-oracle` first", file=sys.stderr)
            return 2
    results: dict[str, dict[str, list[Cost]]] = {name: {way: [] for way in WAYS[name]} for name in options.types}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as scratch:
        folder = Path(scratch)
        checkpoint = folder / "checkpoint"
        write_checkpoint(checkpoint, options.layers)
        size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        for i in range(options.rounds):
            for file_type in options.types:
                ways = list(WAYS[file_type].items())
                for way, measure in ways if i % 2 == 0 else reversed(ways):
                    cost = measure(checkpoint, folder, file_type, options.threads)
                    results[file_type][way].append(cost)
                    print(f"round {i + 1}: {file_type}, {way}: {cost}", file=sys.stderr)
        speed = disk_speed(folder, size // 2)
    print(f"{size / 2e9:.2f}e9 weights, {options.threads} threads, {options.rounds} rounds; the disk takes ", end="")
    print(f"{speed / 1e9:.2f} GB/s\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
