"""Our products of quantized weights, called from C."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import c_programs
import models
import shapes
from commandr_gguf import Model, Session

SOURCE = Path(__file__).with_suffix(".c")
has_kernel = bool(c_programs.cpu_flags & {"avx2", "asimddp"})


def run(program: Path, level: str) -> tuple[int, str]:
    """Exit status and output of the program with the kernels of a level."""
    environment = {**os.environ, "COMMANDR_CPU": level}
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("products") / "test_products"
    c_programs.compile_program(target, SOURCE, "-O2")
    return target


@pytest.mark.parametrize("level", c_programs.LEVELS)
def test_products_are_exact_up_to_float32_and_a_column_does_not_depend_on_its_batch(level: str, program: Path) -> None:
    if not c_programs.LEVELS[level][0] <= c_programs.cpu_flags or (level == "portable" and not has_kernel):
        pytest.skip(f"this processor is not one of level {level}")
    assert run(program, level) == (0, "")


def test_products_of_the_short_vectors_of_avxvnni_are_exact_too(tmp_path: Path) -> None:
    """The code of that level with the same instructions of AVX-512, for processors that encode them so only."""
    if not c_programs.LEVELS["avx512"][0] <= c_programs.cpu_flags:
        pytest.skip("this processor has no AVX-512")
    target = tmp_path / "test_products"
    short = [*c_programs.AVX512, "-DCOMMANDR_LANES_256"]
    c_programs.compile_program(target, SOURCE, "-O2", compiled_as={"avx512": short})
    assert run(target, "avx512") == (0, "")


WORKER = """
import sys
import numpy as np
from commandr_gguf import Model, Session
with Model(sys.argv[1]) as model, Session(model, n_ctx=64, n_threads=2) as session:
    tokens = np.load(sys.argv[2])
    session.eval(tokens.tolist(), n_outputs=len(tokens))
    np.save(sys.argv[3], session.logits())
    print(model.computed_by)
"""


def evaluate(level: str, tmp_path: Path, tokens: npt.NDArray[np.int32]) -> subprocess.CompletedProcess[str]:
    """A model's logits in tmp_path/LEVEL.npy: the level is settled once in a process."""
    np.save(tmp_path / "tokens.npy", tokens)
    files = [str(models.gguf("gqa", "Q4_K_M")), str(tmp_path / "tokens.npy"), str(tmp_path / f"{level}.npy")]
    environment = {**os.environ, "COMMANDR_CPU": level}
    command = [sys.executable, "-c", WORKER, *files]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_level_that_the_processor_lacks_is_named_when_a_model_is_loaded(tmp_path: Path) -> None:
    done = evaluate("avx1024", tmp_path, np.array([5], np.int32))
    assert done.returncode != 0
    assert 'ArgumentError: COMMANDR_CPU is "avx1024"; this processor has portable' in done.stderr


def test_every_level_is_as_near_to_float64(tmp_path: Path) -> None:
    tokens = np.random.default_rng(6).integers(10, 500, 60, np.int32)
    expected = models.expected_logits("gqa", tokens, "Q4_K_M")
    errors = {}
    for level, (needed, _) in c_programs.LEVELS.items():
        if needed <= c_programs.cpu_flags and (level != "portable" or has_kernel):
            done = evaluate(level, tmp_path, tokens)
            assert (done.returncode, done.stdout) == (0, "packed\n")
            errors[level] = np.sqrt(np.mean((np.load(tmp_path / f"{level}.npy") - expected) ** 2))
    assert all(0.0 < error <= 0.1 for error in errors.values()), errors  # logits of up to 9; 8-bit activations


def test_a_model_that_is_loaded_does_not_change_what_another_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    path = models.gguf("gqa", "Q4_K_M")
    with Model(path) as model, Session(model, n_ctx=64, n_threads=2) as session:

        def logits() -> npt.NDArray[np.float32]:
            session.seq_rm(0)
            session.eval([5, 100, 17, 30, 7], n_outputs=5)
            return session.logits()

        before = logits()
        monkeypatch.setenv("COMMANDR_CPU", "portable")
        with Model(path):
            assert (logits() == before).all()


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0"])
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
