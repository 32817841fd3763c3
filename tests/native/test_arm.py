"""Our products for ARM, compiled by a cross compiler and run by an emulator of its processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import libggml
import pytest

import c_programs

SOURCE = Path(__file__).parents[2] / "native/src"
GCC = "aarch64-linux-gnu-gcc"
EMULATOR = next(filter(shutil.which, ["qemu-aarch64", "qemu-aarch64-static"]), None)
pytestmark = pytest.mark.skipif(
    not (shutil.which(GCC) and EMULATOR), reason="needs Debian's packages gcc-aarch64-linux-gnu and qemu-user"
)
COMPILERS = {GCC: [GCC, "-fno-schedule-insns"]}
if shutil.which("clang"):
    COMPILERS["clang"] = ["clang", "--target=aarch64-linux-gnu"]
TILES = {
    "portable": ["-DCOMMANDR_LANES_PORTABLE"],
    **{level: c_programs.LEVELS[level][1] for level in ("dotprod", "i8mm")},
}
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wvla", "-Wundef", "-Werror"]


def build(target: Path, compiler: list[str]) -> None:
    """Compile the program of this test with the kernels as they are in the tree."""
    compiler = [*compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wno-psabi", "-ffp-contract=off"]
    compiler += [*WARNINGS, f"-I{SOURCE}", f"-I{SOURCE.parent / 'include'}"]
    compiler += ["-isystem", str(Path(libggml.__path__[0]) / "include")]
    objects, compilations = [], []
    for level, flags in TILES.items():
        objects.append(f"{target}-{level}.o")
        command = [*compiler, f"-DCOMMANDR_LEVEL={level}", *flags, "-c", str(SOURCE / "kernels/tile.c")]
        compilations.append(subprocess.Popen([*command, "-o", objects[-1]]))
    assert [compilation.wait() for compilation in compilations] == [0] * len(TILES)
    sources = [Path(__file__).with_suffix(".c"), SOURCE / "error.c"]
    sources += [SOURCE / "kernels" / f"{name}.c" for name in ("columns", "level", "matmul", "packed")]
    subprocess.run([*compiler, "-static", *map(str, sources), *objects, "-lm", "-o", str(target)], check=True)


def run(program: Path, level: str | None, *, processor: str) -> tuple[int, str]:
    """Exit status and output of the program with the kernels of a level, of the best one by default."""
    assert EMULATOR
    environment = {name: value for name, value in os.environ.items() if name != "COMMANDR_CPU"}
    if level:
        environment["COMMANDR_CPU"] = level
    command = [EMULATOR, "-cpu", processor, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout


@pytest.fixture(scope="module", params=COMPILERS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("arm") / "test_arm"
    build(target, COMPILERS[request.param])
    return target


def test_products_are_exact_up_to_float32_and_have_the_same_bits_at_every_level(program: Path) -> None:
    hashes = set()
    for level in TILES:
        status, output = run(program, level, processor="max")
        assert status == 0, output
        hashes.add(output.split()[1])
    assert len(hashes) == 1


def test_a_processor_computes_with_the_best_level_that_it_has(program: Path) -> None:
    assert run(program, None, processor="max") == run(program, "i8mm", processor="max")
    assert run(program, None, processor="neoverse-n1") == run(program, "dotprod", processor="max")


def test_a_level_that_a_processor_lacks_is_refused(program: Path) -> None:
    lacks = 'COMMANDR_CPU is "i8mm"; this processor has portable, dotprod\n'
    assert run(program, "i8mm", processor="neoverse-n1") == (2, lacks)
    lacks = 'COMMANDR_CPU is "dotprod"; this processor has portable\n'
    assert run(program, "dotprod", processor="cortex-a53") == (2, lacks)
