"""Our products of quantized weights, called from C."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import kernels
import models
import shapes
from commandr_gguf import Model, Session
from commandr_gguf.errors import ArgumentError

SOURCE = Path(__file__).with_suffix(".c")
has_kernel = bool(kernels.cpu_flags & {"avx2", "asimddp"})


def run(program: Path, level: str) -> tuple[int, str]:
    """Exit status and output of the program with the kernels of a level."""
    environment = {**os.environ, "COMMANDR_CPU": level}
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("products") / "test_products"
    kernels.compile_program(target, SOURCE, "-O2")
    return target


@pytest.mark.parametrize("level", kernels.LEVELS)
def test_products_are_exact_up_to_float32_and_a_column_does_not_depend_on_its_batch(level: str, program: Path) -> None:
    if not kernels.LEVELS[level][0] <= kernels.cpu_flags or (level == "portable" and not has_kernel):
        pytest.skip(f"this processor is not one of level {level}")
    assert run(program, level) == (0, "")


def test_products_of_the_short_vectors_of_avxvnni_are_exact_too(tmp_path: Path) -> None:
    """The code of that level with the same instructions of AVX-512, for processors that encode them so only."""
    if not kernels.LEVELS["avx512"][0] <= kernels.cpu_flags:
        pytest.skip("this processor has no AVX-512")
    target = tmp_path / "test_products"
    short = [*kernels.AVX512, "-DCOMMANDR_LANES_256"]
    kernels.compile_program(target, SOURCE, "-O2", compiled_as={"avx512": short})
    assert run(target, "avx512") == (0, "")


def test_a_level_that_the_processor_lacks_is_named_when_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    path = models.gguf("gqa", "Q8_0")
    monkeypatch.setenv("COMMANDR_CPU", "avx1024")
    with pytest.raises(ArgumentError, match=r'COMMANDR_CPU is "avx1024"; this processor has portable'):
        Model(path)


def test_the_portable_level_computes_what_the_best_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_kernel:
        pytest.skip("this processor has no kernel of ours")
    path = models.gguf("gqa", "Q4_K_M")

    def logits() -> npt.NDArray[np.float32]:
        with Model(path) as model, Session(model, n_ctx=64, n_threads=2) as session:
            assert model.computed_by == "packed"
            session.eval([5, 100, 17, 30, 7], n_outputs=5)
            return session.logits()

    best = logits()
    monkeypatch.setenv("COMMANDR_CPU", "portable")
    portable = logits()
    # Sums that differ in the last bit round to other 8-bit activations here and there.
    assert np.abs(best - portable).max() <= 1e-2 * np.abs(best).max()


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"])
def test_weights_are_packed_where_the_processor_has_the_kernel(file_type: str) -> None:
    if not has_kernel:
        pytest.skip("this processor has no kernel of ours")
    with Model(models.gguf("gqa", file_type)) as model:
        assert model.computed_by == "packed"
        assert {use.what for use in model.memory()} <= {"packed", "mapped"}  # norms stay where they are
    with Model(models.gguf("gqa", file_type), repack=False) as model:
        assert model.computed_by == "cpu"


def test_a_matrix_that_is_packed_in_pieces_is_whole(tmp_path: Path) -> None:
    """Head and embedding of 66 MiB, which are packed from two pieces of the file."""
    if not has_kernel:
        pytest.skip("this processor has no kernel of ours")
    checkpoint = shapes.write_checkpoint(tmp_path / "checkpoint", "gqa", n_layers=1, vocab_size=256000)
    path = models.convert(checkpoint, tmp_path / "large.gguf", "Q8_0")

    def logits(*, repack: bool, cache_packed: bool = False) -> npt.NDArray[np.float32]:
        loaded = Model(path, repack=repack, cache_packed=cache_packed)
        with loaded as model, Session(model, n_ctx=64, n_threads=2) as session:
            assert ("packed-mapped" in {use.what for use in model.memory()}) == cache_packed
            assert model.computed_by == ("packed" if repack else "cpu")
            session.eval([5, 100, 246735, 246736, 255999, 7], n_outputs=6)  # rows on both sides of the cut
            return session.logits()

    packed, mapped = logits(repack=True), logits(repack=False)
    assert np.abs(mapped).max() > 0.1
    assert (packed == mapped).all()
    for _ in range(2):  # written, then mapped
        assert (logits(repack=True, cache_packed=True) == packed).all()
