"""Our products through AMX, whose tile instructions are emulated where the processor lacks them."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import c_programs
import models

HERE = Path(__file__).parent
SOURCE = c_programs.NATIVE / "src"
KERNELS = [SOURCE / "kernels" / f"{name}.c" for name in ("amx", "amx-check", "amx-unpack", "packed")]
is_linux_x86 = platform.system() == "Linux" and platform.machine() == "x86_64"
needs_rounding = pytest.mark.skipif(
    not is_linux_x86 or "avx512_bf16" not in c_programs.cpu_flags, reason="this processor does not round to bfloat16"
)
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)] or ["cc"]


def build(target: Path, sources: Sequence[Path], *options: str, compiler: str | None = None) -> None:
    """Compile a program of these tests together with the emulation."""
    options = ("-march=x86-64-v3", f"-I{HERE}", *options)
    c_programs.compile_with_ggml(target, [*sources, HERE / "tile_emulation.c"], *options, compiler=compiler)


def run(program: Path, *arguments: str) -> tuple[int, str]:
    """The exit code and what was printed."""
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.fixture(scope="module", params=COMPILERS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """test_amx.c with the kernels, by each compiler."""
    if not is_linux_x86:
        pytest.skip("AMX is used under Linux")
    target = tmp_path_factory.mktemp("amx") / "test_amx"
    build(target, [HERE / "test_amx.c", *KERNELS], "-O3", compiler=request.param)
    return target


@needs_rounding
def test_products_are_exact_up_to_float32_and_a_column_does_not_depend_on_its_batch(program: Path) -> None:
    assert run(program, "products") == (0, "")


def test_amx_is_found_exactly_where_it_works_and_lacking_it_disturbs_no_one(program: Path) -> None:
    assert run(program, "self-test", "yes" if "amx_bf16" in c_programs.cpu_flags else "no") == (0, "")


def test_the_self_test_tells_a_right_unit_from_a_wrong_one(program: Path) -> None:
    assert run(program, "check") == (0, "")


def logits(program: Path, model: Path, tokens: Path, mode: str) -> tuple[npt.NDArray[np.float64], int]:
    """[n_tokens * n_vocab] logits and the number of emulated tile products."""
    done = subprocess.run([str(program), str(model), str(tokens), mode], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32).astype(np.float64), int(done.stderr)


@needs_rounding
def test_a_model_computed_through_amx_is_nearer_to_float64_than_in_8_bits(tmp_path: Path) -> None:
    program = tmp_path / "test_amx_model"
    files = [HERE / "test_amx_model.c", *SOURCE.glob("*.c"), *SOURCE.glob("kernels/*.c")]
    files.remove(SOURCE / "kernels/tile.c")
    files += c_programs.compile_tiles(tmp_path, "-O1")
    build(program, files, "-O1", "-Wl,--wrap=commandr_amx_available")
    ids = np.random.default_rng(6).integers(10, 500, 80, np.int32)
    tokens = tmp_path / "tokens"
    tokens.write_bytes(ids.tobytes())
    expected = models.expected_logits("gqa", ids, "Q4_K_M").ravel()
    amx, n_products = logits(program, models.gguf("gqa", "Q4_K_M"), tokens, "amx")
    plain, n_none = logits(program, models.gguf("gqa", "Q4_K_M"), tokens, "plain")
    assert n_products > 0 or "amx_bf16" in c_programs.cpu_flags
    assert n_none == 0
    assert (amx != plain).any()
    error, error_of_8_bits = (np.sqrt(np.mean((x - expected) ** 2)) for x in (amx, plain))
    assert 0.0 < error <= 0.5 * error_of_8_bits
