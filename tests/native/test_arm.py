"""Our products for ARM, compiled by a cross compiler and run by an emulator of its processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import libggml
import pytest

SOURCE = Path(__file__).parents[2] / "native/src"
GCC = "aarch64-linux-gnu-gcc"
EMULATOR = next(filter(shutil.which, ["qemu-aarch64", "qemu-aarch64-static"]), None)
pytestmark = pytest.mark.skipif(
    not (shutil.which(GCC) and EMULATOR), reason="needs Debian's packages gcc-aarch64-linux-gnu and qemu-user"
)
COMPILERS = {GCC: [GCC, "-fno-schedule-insns"]}
if shutil.which("clang"):
    COMPILERS["clang"] = ["clang", "--target=aarch64-linux-gnu"]
TILES = {"portable": "-DCOMMANDR_LANES_PORTABLE", "dotprod": "-march=armv8.2-a+dotprod"}
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wvla", "-Wundef", "-Werror"]


def build(target: Path, compiler: list[str]) -> None:
    """Compile the program of this test with the kernels as they are in the tree."""
    compiler = [*compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wno-psabi", "-ffp-contract=off"]
    compiler += [*WARNINGS, f"-I{SOURCE}", f"-I{SOURCE.parent / 'include'}"]
    compiler += ["-isystem", str(Path(libggml.__path__[0]) / "include")]
    objects = []
    for level, flag in TILES.items():
        objects.append(f"{target}-{level}.o")
        command = [*compiler, f"-DCOMMANDR_LEVEL={level}", flag, "-c", str(SOURCE / "kernels/tile.c")]
        subprocess.run([*command, "-o", objects[-1]], check=True)
    sources = [Path(__file__).with_suffix(".c"), SOURCE / "error.c"]
    sources += [SOURCE / "kernels" / f"{name}.c" for name in ("columns", "level", "matmul", "packed")]
    subprocess.run([*compiler, "-static", *map(str, sources), *objects, "-lm", "-o", str(target)], check=True)


def run(program: Path, level: str, *, processor: str) -> tuple[int, str]:
    """Exit status and output of the program with the kernels of a level."""
    assert EMULATOR
    environment = {**os.environ, "COMMANDR_CPU": level}
    command = [EMULATOR, "-cpu", processor, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout


@pytest.mark.parametrize("compiler", COMPILERS)
def test_products_of_the_levels_that_a_processor_has_are_exact_up_to_float32(compiler: str, tmp_path: Path) -> None:
    program = tmp_path / "test_arm"
    build(program, COMPILERS[compiler])
    for level in TILES:
        assert run(program, level, processor="max") == (0, "")
    lacks = 'COMMANDR_CPU is "dotprod"; this processor has portable\n'
    assert run(program, "dotprod", processor="cortex-a53") == (2, lacks)
