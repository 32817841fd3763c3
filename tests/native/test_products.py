"""Our products of quantized weights, called from C."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import libggml
import numpy as np
import numpy.typing as npt
import pytest

import models
import shapes
from commandr_gguf import Model, Session

ROOT = Path(__file__).parents[2]
NO_KERNEL = 77
CPU_INFO = Path("/proc/cpuinfo")
has_vnni = CPU_INFO.exists() and " avx512_vnni " in CPU_INFO.read_text(encoding="utf-8", errors="replace")


def build(target: Path) -> None:
    """Compile the program of this test with the kernels as they are in the tree."""
    ggml = Path(libggml.__path__[0])
    folder = next(ggml / name for name in ("lib64", "lib") if (ggml / name).is_dir())
    kernels = ROOT / "native/src/kernels"
    sources = [Path(__file__).with_suffix(".c"), *sorted(kernels.glob("*.c"))]
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wno-psabi"]
    command += [f"-I{ROOT / 'native/src'}", f"-I{ggml / 'include'}", *map(str, sources), "-o", str(target)]
    command += [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lggml", "-lggml-cpu", "-lggml-base", "-lm"]
    subprocess.run(command, check=True)


def test_products_are_exact_up_to_float32_and_a_column_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    program = tmp_path / "test_products"
    build(program)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    if done.returncode == NO_KERNEL and not has_vnni:
        pytest.skip("this processor has no kernel of ours")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"])
def test_weights_are_packed_where_the_processor_has_the_kernel(file_type: str) -> None:
    if not has_vnni:
        pytest.skip("this processor has no kernel of ours")
    with Model(models.gguf("gqa", file_type)) as model:
        assert model.computed_by == "packed"
        assert {use.what for use in model.memory()} <= {"packed", "mapped"}  # norms stay where they are
    with Model(models.gguf("gqa", file_type), repack=False) as model:
        assert model.computed_by == "cpu"


def test_a_matrix_that_is_packed_in_pieces_is_whole(tmp_path: Path) -> None:
    """Head and embedding of 66 MiB, which are packed from two pieces of the file."""
    if not has_vnni:
        pytest.skip("this processor has no kernel of ours")
    checkpoint = shapes.write_checkpoint(tmp_path / "checkpoint", "gqa", n_layers=1, vocab_size=256000)
    path = models.convert(checkpoint, tmp_path / "large.gguf", "Q8_0")

    def logits(*, repack: bool) -> npt.NDArray[np.float32]:
        with Model(path, repack=repack) as model, Session(model, n_ctx=64, n_threads=2) as session:
            assert model.computed_by == ("packed" if repack else "cpu")
            session.eval([5, 100, 246735, 246736, 255999, 7], n_outputs=6)  # rows on both sides of the cut
            return session.logits()

    packed, mapped = logits(repack=True), logits(repack=False)
    assert np.abs(mapped).max() > 0.1
    assert (packed == mapped).all()
