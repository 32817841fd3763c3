"""The programs that compare_llama_cpp.py compares, at each level of instructions that this processor has."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import oracles  # noqa: E402

OURS = "commandr-gguf"
# Our program with ggml's prebuilt libraries, as tests/oracle/setup.py installs it.
AVX2_PYTHON = oracles.FOLDER / "commandr-avx2" / "bin" / "python"
CPU_INFO = Path("/proc/cpuinfo")
# Level -> the flag of /proc/cpuinfo that it needs. The first one that a processor has is its best.
FLAGS = {"amx": "amx_int8", "avx512": "avx512_vnni", "avxvnni": "avx_vnni", "avx2": "avx2"}
# Levels of laptops say nothing on a processor with more: there AVX2 alone stands for them.
SUPERSEDED = {"avxvnni": {"amx", "avx512"}}


@dataclass(frozen=True)
class Program:
    """A build of a program, and how to run it."""

    name: str
    python: Path
    script: str
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def missing(self) -> str:
        """What has to be installed first; "" when nothing is."""
        folder = dict(self.environment).get("PYTHONPATH", "")
        absent = [path for path in (self.python, Path(folder)) if not path.exists()]
        return f"{absent[0]} is absent: run `python tests/oracle/setup.py --variants`" if absent else ""


def levels() -> list[str]:
    """What this processor has, the best first; one without a name where it is not of the x86-64 kind."""
    text = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.exists() else ""
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    found = [level for level, flag in FLAGS.items() if flag in flags]
    return [level for level in found if not SUPERSEDED.get(level, set()) & set(found)] or ["native"]


def ours(level: str, python_avx2: Path) -> Program:
    """Our program, with kernels of a level. For AVX2 its ggml has to be limited as well: another environment's."""
    environment = () if level == levels()[0] else (("COMMANDR_CPU", level),)
    python = python_avx2 if level == "avx2" and level != levels()[0] else Path(sys.executable)
    return Program(OURS, python, "worker_commandr.py", environment)


def llama_cpp(level: str) -> Program:
    """llama.cpp's build of a level: that for this processor, but for AMX and where the processor has more than AVX2."""
    python = oracles.FOLDER / "bin" / "python"
    if level != "amx" and not (level == "avx2" and level != levels()[0]):
        return Program("llama.cpp", python, "worker_llama_cpp.py")
    environment = (("PYTHONPATH", str(oracles.FOLDER / f"llama.cpp-{level}")),)
    return Program(f"llama.cpp, {level}", python, "worker_llama_cpp.py", environment)


def transformers() -> Program:
    """transformers in bfloat16."""
    return Program("transformers, bf16", oracles.FOLDER / "bin" / "python", "worker_transformers.py")


class Worker:
    """A running program, see worker_common.py for what it understands. Use it in a `with` statement."""

    def __init__(self, program: Program, model: str, n_threads: int, n_ctx: int) -> None:
        command = [str(program.python), str(HERE / program.script), model]
        command += [f"--threads={n_threads}", f"--n-ctx={n_ctx}"]
        self.program = program
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | dict(program.environment),
        )

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


def processor() -> str:
    """The machine's processor, as the system names it."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
