"""The KV cache of devices other than the CPU grows by copying; here the CPU plays such a device."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import c_programs
import models
from commandr_gguf import Model, Session


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("kv") / "test_kv_memory"
    c_programs.compile_program(target, Path(__file__).with_suffix(".c"), "-O1")
    return target


@pytest.mark.parametrize(("shape", "n_layers"), [("gqa", 0), ("gqa", 1), ("cohere2", 0)])
def test_copied_rows_are_the_same_as_those_that_stay_in_place(
    program: Path, shape: str, n_layers: int, tmp_path: Path
) -> None:
    tokens = np.r_[5, np.random.default_rng(7).integers(8, 600, 3000)].astype(np.int32)
    tokens.tofile(tmp_path / "tokens")
    arguments = [str(program), str(models.gguf(shape)), str(tmp_path / "tokens"), str(n_layers)]
    done = subprocess.run(arguments, capture_output=True, check=True)
    sizes = [int(line) for line in done.stderr.split()]
    assert sizes[0] < sizes[-1]
    expected, n = [], 100
    with Model(models.gguf(shape)) as model, Session(model, n_ctx=8192, n_ubatch=64, n_threads=2) as session:
        while n <= len(tokens):
            session.eval(tokens[:n])
            session.eval(tokens[:n])
            expected.append(session.logits()[0])
            n += n // 2
    found = np.frombuffer(done.stdout, np.float32).reshape(len(expected), -1)
    np.testing.assert_array_equal(found, np.stack(expected))
