"""Our attention, called from C, for every vector width that this processor has."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import libggml

ROOT = Path(__file__).parents[2]


def build(target: Path) -> None:
    """Compile the program of this test with the kernels as they are in the tree."""
    ggml = Path(libggml.__path__[0])
    folder = next(ggml / name for name in ("lib64", "lib") if (ggml / name).is_dir())
    sources = [Path(__file__).with_suffix(".c"), *sorted((ROOT / "native/src/kernels").glob("*.c"))]
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wno-psabi"]
    command += [f"-I{ROOT / 'native/src'}", f"-I{ggml / 'include'}", *map(str, sources), "-o", str(target)]
    command += [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lggml", "-lggml-cpu", "-lggml-base", "-lm"]
    subprocess.run(command, check=True)


def test_sums_are_exact_up_to_float32_and_a_token_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    program = tmp_path / "test_attention"
    build(program)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
