"""Settings that all tests share."""

from __future__ import annotations

import os

import hypothesis

# A slow machine is no failure, and a run of CI is to be repeatable.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")
