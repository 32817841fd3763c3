"""Settings that all tests share."""

from __future__ import annotations

import os
import signal

import hypothesis

# Test processes share the cores: OpenMP's threads must not spin while they wait. It is read when ggml is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The same of numpy's products: many small ones take ten times as long with threads that spin beside other work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell starts what it runs in the background with SIGINT ignored, and children inherit that; tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no failure, and a run of CI is to be repeatable.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")
