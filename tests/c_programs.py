"""How C tests and benchmarks compile our sources, as CMakeLists.txt does: tile.c once for each level of level.h."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import libggml

NATIVE = Path(__file__).parents[1] / "native"
GGML = Path(libggml.__path__[0])
CPU_INFO = Path("/proc/cpuinfo")
cpu_flags = set(CPU_INFO.read_text(encoding="utf-8", errors="replace").split()) if CPU_INFO.exists() else set()
AVX512 = ["-march=x86-64-v4", "-mavx512vnni"]


def is_x86() -> bool:
    return platform.machine() in {"x86_64", "AMD64"}


LEVELS: dict[str, tuple[set[str], list[str]]] = {
    "portable": (set(), ["-DCOMMANDR_LANES_PORTABLE", *(["-march=x86-64-v3"] if is_x86() else [])]),
    "avx2": ({"avx2", "fma"}, ["-march=x86-64-v3"]),
    "avxvnni": ({"avx_vnni"}, ["-march=x86-64-v3", "-mavxvnni"]),
    "avx512": ({"avx512_vnni", "avx512vl"}, AVX512),
    "dotprod": ({"asimddp"}, ["-march=armv8.2-a+dotprod"]),
    "i8mm": ({"asimddp", "i8mm"}, ["-march=armv8.2-a+dotprod+i8mm"]),
}
"""Level -> (what /proc/cpuinfo must name, how tile.c is compiled)"""


def command(*options: str, compiler: str | None = None) -> list[str]:
    """A compiler (`$CC` or cc by default) with what our sources need, ggml's headers included."""
    folders = (NATIVE / "src", NATIVE / "include", GGML / "include")
    words = [*shlex.split(compiler or os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE", "-Wno-psabi"]
    return [*words, '-DCOMMANDR_VERSION="0"', *options, *(f"-I{folder}" for folder in folders)]


def compile_with_ggml(target: Path, sources: Iterable[Path], *options: str, compiler: str | None = None) -> None:
    """A program of sources and object files that is linked with ggml."""
    folder = next(GGML / name for name in ("lib64", "lib") if (GGML / name).is_dir())
    libraries = ["-lggml", "-lggml-cpu", "-lggml-base", "-lpthread", "-ldl", "-lm"]
    linked = [*map(str, sources), "-o", str(target), f"-L{folder}", f"-Wl,-rpath,{folder}", *libraries]
    subprocess.run([*command(*options, compiler=compiler), *linked], check=True)


def compile_tiles(folder: Path, *options: str, compiled_as: Mapping[str, Sequence[str]] | None = None) -> list[Path]:
    """The object files of tile.c for this machine. compiled_as: level -> other flags than those of LEVELS"""
    objects = []
    for level in ["portable", "avx2", "avxvnni", "avx512"] if is_x86() else ["portable", "dotprod", "i8mm"]:
        objects.append(folder / f"tile-{level}.o")
        how = (compiled_as or {}).get(level, LEVELS[level][1])
        of_level = [f"-DCOMMANDR_LEVEL={level}", "-ffp-contract=off", *how, "-c", str(NATIVE / "src/kernels/tile.c")]
        subprocess.run([*command(*options), *of_level, "-o", str(objects[-1])], check=True)
    return objects


def compile_program(
    target: Path, source: Path, *options: str, compiled_as: Mapping[str, Sequence[str]] | None = None
) -> None:
    """A program of one source with our kernels.

    Those that the Makefile compiled for the extension, where they are at hand and no other flags are wanted; or else as
    they are in the tree, which takes minutes.
    """
    library = Path(sys.prefix) / "build" / "libcommandr.a"
    if compiled_as is None and library.exists():
        compile_with_ggml(target, [source, library], *options)
        return
    sources = [source, NATIVE / "src/error.c", *sorted((NATIVE / "src/kernels").glob("*.c"))]
    sources.remove(NATIVE / "src/kernels/tile.c")
    sources += compile_tiles(target.parent, *options, compiled_as=compiled_as)
    compile_with_ggml(target, sources, *options)
