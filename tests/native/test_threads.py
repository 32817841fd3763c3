"""commandr_default_n_threads and commandr_read_bandwidth."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from commandr_gguf._native import ffi, lib

PINNED = """
import os
os.sched_setaffinity(0, {next(iter(os.sched_getaffinity(0)))})
from commandr_gguf._native import lib
print(lib.commandr_default_n_threads())
"""


def test_default_is_between_one_and_what_the_process_may_use() -> None:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert 1 <= lib.commandr_default_n_threads() <= allowed


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no processor affinity on this system")
def test_default_respects_affinity() -> None:
    result = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"


@pytest.mark.parametrize("n_threads", [0, 1, 2])
def test_bandwidth_is_plausible(n_threads: int) -> None:
    rate = lib.commandr_read_bandwidth(n_threads, 32 << 20)
    assert 1e8 < rate < 1e13


def test_bandwidth_of_a_buffer_smaller_than_a_piece_of_work() -> None:
    assert lib.commandr_read_bandwidth(3, 8) > 0


@pytest.mark.parametrize(("n_threads", "n_bytes"), [(1, 0), (1, 7), (1, -8), (-1, 1 << 20)])
def test_bandwidth_of_nothing_fails(n_threads: int, n_bytes: int) -> None:
    assert lib.commandr_read_bandwidth(n_threads, n_bytes) == 0
    message = f"cannot measure the reading of {n_bytes} bytes by {n_threads} threads"
    assert ffi.string(lib.commandr_last_error()).decode() == message


def test_bandwidth_of_more_than_memory_fails() -> None:
    assert lib.commandr_read_bandwidth(1, 1 << 62) == 0
    assert "cannot allocate" in ffi.string(lib.commandr_last_error()).decode()
