"""A short soak; `python tests/bench/soak.py` takes ten minutes."""

from __future__ import annotations

import asyncio
import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from server.soak import Soak
from server.soaking import served_demo


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the server's memory is read from /proc")
def test_a_server_outlasts_clients_that_misbehave() -> None:
    with served_demo() as (port, pid):
        report = asyncio.run(Soak(port, pid).run(20.0))
    assert report.wrong == []
    assert len(report.done) == 11
    assert report.growth < 24 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such limit")
def test_threads_share_heaps() -> None:
    assert ctypes.CDLL(None).mallopt
    program = """
import ctypes, sys, threading
from commandr_gguf.server.heaps import limit_heaps
assert limit_heaps()
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
found = set()
together = threading.Barrier(8)
def take():
    together.wait()
    found.update(malloc(1000) >> 26 for _ in range(100))  # heaps of threads lie 64 MiB apart
    together.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 3
