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
from commandr_gguf.errors import ArgumentError

ROOT = Path(__file__).parents[2]
CPU_INFO = Path("/proc/cpuinfo")
flags = set(CPU_INFO.read_text(encoding="utf-8", errors="replace").split()) if CPU_INFO.exists() else set()
has_kernel = bool(flags & {"avx2", "asimddp"})
AVX512 = ["-march=x86-64-v4", "-mavx512vnni"]
LEVELS = {  # level -> (what the processor needs, how tile.c is compiled)
    "portable": (set(), ["-DCOMMANDR_LANES_PORTABLE"]),
    "avx2": ({"avx2", "fma"}, ["-march=x86-64-v3"]),
    "avxvnni": ({"avx_vnni"}, ["-march=x86-64-v3", "-mavxvnni"]),
    "avx512": ({"avx512_vnni", "avx512vl"}, AVX512),
    "dotprod": ({"asimddp"}, ["-march=armv8.2-a+dotprod"]),
}
X86 = ["portable", "avx2", "avxvnni", "avx512"]
ARM = ["portable", "dotprod"]


def build(target: Path, levels: list[str], compiled_as: dict[str, list[str]] | None = None) -> None:
    """Compile the program of this test with the kernels as they are in the tree."""
    ggml = Path(libggml.__path__[0])
    folder = next(ggml / name for name in ("lib64", "lib") if (ggml / name).is_dir())
    source = ROOT / "native/src"
    compiler = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wno-psabi"]
    compiler += [f"-I{source}", f"-I{ROOT / 'native/include'}", f"-I{ggml / 'include'}"]
    tiles = []
    for level in levels:
        tiles.append(f"{target}-{level}.o")
        how = (compiled_as or {}).get(level, LEVELS[level][1])
        options = [f"-DCOMMANDR_LEVEL={level}", "-ffp-contract=off", *how, "-c", str(source / "kernels/tile.c")]
        subprocess.run([*compiler, *options, "-o", tiles[-1]], check=True)
    sources = [Path(__file__).with_suffix(".c"), source / "error.c"]
    sources += [path for path in sorted((source / "kernels").glob("*.c")) if path.name != "tile.c"]
    command = [*compiler, *map(str, sources), *tiles, "-o", str(target)]
    command += [f"-L{folder}", f"-Wl,-rpath,{folder}", "-lggml", "-lggml-cpu", "-lggml-base", "-lm"]
    subprocess.run(command, check=True)


def run(program: Path, level: str) -> tuple[int, str]:
    """Exit status and output of the program with the kernels of a level."""
    environment = {**os.environ, "COMMANDR_CPU": level}
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("products") / "test_products"
    build(target, X86 if "avx2" in flags else ARM)
    return target


@pytest.mark.parametrize("level", LEVELS)
def test_products_are_exact_up_to_float32_and_a_column_does_not_depend_on_its_batch(level: str, program: Path) -> None:
    if not LEVELS[level][0] <= flags or (level == "portable" and not has_kernel):
        pytest.skip(f"this processor is not one of level {level}")
    assert run(program, level) == (0, "")


def test_products_of_the_short_vectors_of_avxvnni_are_exact_too(tmp_path: Path) -> None:
    """The code of that level with the same instructions of AVX-512, for processors that encode them so only."""
    if not LEVELS["avx512"][0] <= flags:
        pytest.skip("this processor has no AVX-512")
    build(tmp_path / "test_products", X86, {"avx512": [*AVX512, "-DCOMMANDR_LANES_256"]})
    assert run(tmp_path / "test_products", "avx512") == (0, "")


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
