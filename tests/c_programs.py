"""How C tests and benchmarks compile our kernels, as CMakeLists.txt does: tile.c once for each level of level.h."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import libggml

NATIVE = Path(__file__).parents[1] / "native"
CPU_INFO = Path("/proc/cpuinfo")
cpu_flags = set(CPU_INFO.read_text(encoding="utf-8", errors="replace").split()) if CPU_INFO.exists() else set()
AVX512 = ["-march=x86-64-v4", "-mavx512vnni"]
LEVELS: dict[str, tuple[set[str], list[str]]] = {
    "portable": (set(), ["-DCOMMANDR_LANES_PORTABLE"]),
    "avx2": ({"avx2", "fma"}, ["-march=x86-64-v3"]),
    "avxvnni": ({"avx_vnni"}, ["-march=x86-64-v3", "-mavxvnni"]),
    "avx512": ({"avx512_vnni", "avx512vl"}, AVX512),
    "dotprod": ({"asimddp"}, ["-march=armv8.2-a+dotprod"]),
}
"""Level -> (what /proc/cpuinfo must name, how tile.c is compiled)"""


def is_x86() -> bool:
    return platform.machine() in {"x86_64", "AMD64"}


def compile_tiles(
    compiler: Sequence[str], folder: Path, compiled_as: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """The object files of tile.c for this machine. compiler: with its -I options; compiled_as: level -> other flags"""
    objects = []
    for level in ["portable", "avx2", "avxvnni", "avx512"] if is_x86() else ["portable", "dotprod"]:
        objects.append(str(folder / f"tile-{level}.o"))
        how = (compiled_as or {}).get(level, LEVELS[level][1])
        options = [f"-DCOMMANDR_LEVEL={level}", "-ffp-contract=off", *how, "-c", str(NATIVE / "src/kernels/tile.c")]
        subprocess.run([*compiler, *options, "-o", objects[-1]], check=True)
    return objects


def compile_program(
    target: Path, source: Path, *options: str, compiled_as: Mapping[str, Sequence[str]] | None = None
) -> None:
    """A program of one source with all kernels as they are in the tree."""
    ggml = Path(libggml.__path__[0])
    folder = next(ggml / name for name in ("lib64", "lib") if (ggml / name).is_dir())
    compiler = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE", "-Wno-psabi", *options]
    compiler += [f"-I{NATIVE / 'src'}", f"-I{NATIVE / 'include'}", f"-I{ggml / 'include'}"]
    sources = [source, NATIVE / "src/error.c", *sorted((NATIVE / "src/kernels").glob("*.c"))]
    sources.remove(NATIVE / "src/kernels/tile.c")
    tiles = compile_tiles(compiler, target.parent, compiled_as)
    command = [*compiler, *map(str, sources), *tiles, "-o", str(target)]
    command += [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lggml", "-lggml-cpu", "-lggml-base", "-lpthread", "-lm"]
    subprocess.run(command, check=True)
