"""Our attention, called from C, for every vector width that this processor has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import c_programs


def test_sums_are_exact_up_to_float32_and_a_token_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    program = tmp_path / "test_attention"
    c_programs.compile_program(program, Path(__file__).with_suffix(".c"), "-O2")
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
