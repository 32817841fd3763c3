"""The context of a session whose caller leaves it to us: what half of the free memory holds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import c_programs
import models
from commandr_gguf import GGUFFile, HParams, kv_cache_bytes


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("size") / "test_cache_size"
    c_programs.compile_program(target, Path(__file__).with_suffix(".c"), "-O1")
    return target


def fitted(program: Path, free: int, *, use_mmap: bool = False, shape: str = "gqa") -> int:
    arguments = [str(program), str(models.gguf(shape)), str(free), str(int(use_mmap))]
    return int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("shape", ["gqa", "cohere2"])
@pytest.mark.parametrize("n_ctx", [8192, 65536])
def test_the_cache_takes_half_of_what_is_free(program: Path, shape: str, n_ctx: int) -> None:
    with GGUFFile(models.gguf(shape)) as file:
        needed = 2 * kv_cache_bytes(HParams.from_gguf(file), n_ctx)
    assert fitted(program, needed, shape=shape) == n_ctx
    assert fitted(program, needed - 2, shape=shape) == n_ctx - 4096


def test_weights_in_a_mapped_file_are_no_free_memory(program: Path) -> None:
    path = models.gguf("gqa")
    with GGUFFile(path) as file:
        needed = 2 * kv_cache_bytes(HParams.from_gguf(file), 16384)
    assert fitted(program, needed + path.stat().st_size, use_mmap=True) == 16384
    assert fitted(program, needed, use_mmap=True) < 16384


def test_bounds(program: Path) -> None:
    assert fitted(program, 0) == 4096
    assert fitted(program, 1 << 50) == 131072
