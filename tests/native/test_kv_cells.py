"""Each sequence has blocks of cells of its own, so that attention of one skips the others'."""

from __future__ import annotations

import subprocess
from pathlib import Path

import c_programs


def test_sequences_get_blocks_of_their_own_and_all_cells_when_they_need_them(tmp_path: Path) -> None:
    program = tmp_path / "test_kv_cells"
    c_programs.compile_program(program, Path(__file__).with_suffix(".c"), "-O1")
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
