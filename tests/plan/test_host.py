"""What is free: the native library's word, which tests/native/test_host_memory.py tests with made-up systems."""

from __future__ import annotations

import subprocess
import sys

import pytest

from commandr_gguf.plan.host import available_memory

MIB = 1 << 20


def test_this_machine() -> None:
    assert 64 * MIB < available_memory() < 1 << 50


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_limits_of_the_shell_are_respected(limit: str) -> None:
    code = (
        "import resource; from commandr_gguf.plan.host import available_memory as free\n"
        f"resource.setrlimit(resource.{limit}, (6 << 30, -1)); print(free())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 6 << 30
