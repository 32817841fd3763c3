"""Our encoders, called from C, for every level of vectors that this processor has."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from pathlib import Path

import libggml
import pytest

ROOT = Path(__file__).parents[2]
IS_X86 = platform.machine() in {"x86_64", "AMD64"}
LEVELS = {"base": "-march=x86-64", "v3": "-march=x86-64-v3", "v4": "-march=x86-64-v4"} if IS_X86 else {"base": "-O2"}


def build(target: Path) -> None:
    """Compile the program of this test with the encoders as they are in the tree."""
    ggml = Path(libggml.__path__[0])
    folder = next(ggml / name for name in ("lib64", "lib") if (ggml / name).is_dir())
    encoders = ROOT / "native/src/encoders"
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wno-psabi"]
    command += [f"-I{ROOT / 'native/src'}", f"-I{ggml / 'include'}"]
    objects = []
    for level, flag in LEVELS.items():
        for source in sorted(encoders.glob("*.c")):
            if source.name != "encoders.c":
                objects.append(target.with_name(f"{source.stem}-{level}.o"))
                compiled = [flag, "-ffp-contract=off", f"-DCOMMANDR_LEVEL={level}", "-c", str(source)]
                subprocess.run([*command, *compiled, "-o", str(objects[-1])], check=True)
    libraries = [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lggml", "-lggml-cpu", "-lggml-base", "-lm"]
    program = [str(Path(__file__).with_suffix(".c")), *map(str, objects), "-o", str(target), *libraries]
    subprocess.run([*command, *program], check=True)


def test_every_encoder_writes_the_bytes_of_ggml(tmp_path: Path) -> None:
    if not IS_X86:
        pytest.skip("compilers may contract a * b + c in ggml's encoders here, which ours never do")
    program = tmp_path / "test_encoders"
    build(program)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
