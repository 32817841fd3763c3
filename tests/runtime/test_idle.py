"""Threads that wait take no processor time: neither from other programs nor from another session."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import models

# In a process of its own, where no other thread works, with two sessions evaluated in turn as drafts need it.
PROGRAM = """
import json, sys, time
from commandr_gguf import Model, Session
with Model(sys.argv[1], n_threads=2) as model:
    with Session(model, n_ctx=64, n_threads=2) as a, Session(model, n_ctx=64, n_threads=2) as b:
        for session in (a, b):
            session.eval([5, 100, 200])
        begin = time.process_time()
        time.sleep(1)
        print(json.dumps(time.process_time() - begin))
"""


def cpu_seconds() -> float:
    """Processor time of a second in which nothing is asked of two sessions that have just evaluated."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-c", PROGRAM, str(models.gguf("gqa"))]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def test_sessions_that_wait_take_no_processor_time() -> None:
    assert min(cpu_seconds() for _ in range(2)) < 0.08
