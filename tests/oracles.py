"""Runs transformers and llama.cpp as processes of their own environment, see tests/oracle/setup.py.

No test imports either program: a process that holds two versions of ggml would mix them up.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).parents[1]
WORKERS = Path(__file__).with_name("oracle")
FOLDER = Path(os.environ.get("COMMANDR_ORACLE", ROOT / ".venv-oracle"))


def run(script: Path, *arguments: object, transformers_4: bool = False) -> str:
    """Run a script in the oracles' interpreter and return what it printed; skips the test when there is none."""
    python = FOLDER / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is absent: run `make test-oracle`")
    environment = os.environ | {"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    if transformers_4:
        environment["PYTHONPATH"] = str(FOLDER / "transformers4")
    command = [str(python), str(script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def transformers_checkpoint(shape: str, folder: Path, **options: object) -> dict[str, npt.NDArray[Any]]:
    """Let transformers write a random checkpoint into `folder`; returns tokens, logits and hidden."""
    out = folder.with_suffix(".npz")
    flags = [item for name, value in options.items() for item in (f"--{name.replace('_', '-')}", value)]
    run(WORKERS / "transformers_worker.py", shape, folder, out, *flags)
    return dict(np.load(out))


def llama_cpp(
    model: Path, tokens: npt.ArrayLike, folder: Path, *, n_greedy: int = 0, type_kv: int = 1
) -> dict[str, npt.NDArray[Any]]:
    """Evaluate a GGUF file with llama.cpp; returns logits [n_tokens, n_vocab], greedy and lead [n_greedy]."""
    np.save(folder / "tokens.npy", np.asarray(tokens, np.int32))
    out = folder / "llama-cpp.npz"
    flags = ["--greedy", n_greedy, "--type-kv", type_kv]
    run(WORKERS / "llama_cpp_worker.py", model, folder / "tokens.npy", out, *flags)
    return dict(np.load(out))
