"""Settings that all tests share."""

from __future__ import annotations

import os

import hypothesis

# Test processes share the cores: OpenMP's threads must not spin while they wait. It is read when ggml is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A slow machine is no failure, and a run of CI is to be repeatable.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")
