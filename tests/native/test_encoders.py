"""Our encoders, called from C, for every level of vectors that this processor has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import c_programs

LEVELS = {"base": "-O2"}
if c_programs.is_x86():
    LEVELS = {"base": "-march=x86-64", "v3": "-march=x86-64-v3", "v4": "-march=x86-64-v4"}


def build(target: Path) -> None:
    """Compile the program of this test with the encoders as they are in the tree."""
    objects = []
    for level, flag in LEVELS.items():
        for source in sorted((c_programs.NATIVE / "src/encoders").glob("*.c")):
            if source.name != "encoders.c":
                objects.append(target.with_name(f"{source.stem}-{level}.o"))
                options = [flag, "-ffp-contract=off", f"-DCOMMANDR_LEVEL={level}", "-c", str(source)]
                subprocess.run([*c_programs.command("-O2", *options), "-o", str(objects[-1])], check=True)
    c_programs.compile_with_ggml(target, [Path(__file__).with_suffix(".c"), *objects], "-O2")


def test_every_encoder_writes_the_bytes_of_ggml(tmp_path: Path) -> None:
    if not c_programs.is_x86():
        pytest.skip("compilers may contract a * b + c in ggml's encoders here, which ours never do")
    program = tmp_path / "test_encoders"
    build(program)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
