"""The installed ggml runs on this machine, and native/ggml_build.py tunes it only as far as is right here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ggml_build
import shapes

ROOT = Path(__file__).parents[2]
SAPPHIRE_RAPIDS = "processor\t: 0\nflags\t\t: fpu avx512f amx_bf16 avx512_fp16 amx_tile amx_int8\n"
ZEN4 = "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n"
WITHOUT_AMX = "-march=native -mno-amx-tile -mno-amx-int8 -mno-amx-bf16"

# Run as a process of its own: an illegal instruction shall fail the test, not the test runner.
EVALUATE = """
import sys
import numpy as np
from commandr_gguf import CommandR
with CommandR(sys.argv[1], n_ctx=512) as model:
    logits = model.logits([5, *(8 + i * 37 % 600 for i in range(511))])
np.save(sys.argv[2], logits)
"""


def evaluate(model: Path, output: Path) -> None:
    command = [sys.executable, "-c", EVALUATE, str(model), str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"exit {result.returncode}: {result.stderr}"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "gqa", n_layers=2)


@pytest.mark.parametrize(("file_type", "bound"), [("Q8_0", 0.05), ("Q4_K_M", 0.3)])
def test_a_batch_of_512_quantized_columns(checkpoint: Path, tmp_path: Path, file_type: str, bound: float) -> None:
    """bound: of the root mean square difference from the F32 file, in standard deviations of the logits."""
    import numpy as np

    logits = {}
    for name in ("F32", file_type):
        path = tmp_path / f"{name}.gguf"
        command = [sys.executable, "-m", "convert", str(checkpoint), "-o", str(path), "--type", name]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        evaluate(path, tmp_path / f"{name}.npy")
        logits[name] = np.load(tmp_path / f"{name}.npy")
    assert logits["F32"].shape[0] == 512
    difference = logits[file_type] - logits["F32"]
    assert np.sqrt((difference**2).mean()) < bound * logits["F32"].std()


def test_amx_is_found_in_cpuinfo() -> None:
    assert ggml_build.has_amx(SAPPHIRE_RAPIDS)
    assert not ggml_build.has_amx(ZEN4)
    assert not ggml_build.has_amx("")


def test_machine_without_amx_is_tuned_by_ggml() -> None:
    assert ggml_build.host_defines(ZEN4, "no-such-compiler") == {"GGML_NATIVE": "ON"}


@pytest.mark.parametrize(("exit_code", "tuned_by_ggml"), [(0, True), (1, False)])
def test_amx_needs_a_proven_run(tmp_path: Path, exit_code: int, tuned_by_ggml: bool) -> None:
    """A stand-in compiler writes a probe that succeeds or fails."""
    compiler = tmp_path / "c++"
    script = f'printf "#!/bin/sh\\nexit {exit_code}\\n" > "$out" && chmod +x "$out"'
    compiler.write_text(f"#!/bin/sh\nfor out; do :; done\n{script}\n")
    compiler.chmod(0o755)
    defines = ggml_build.host_defines(SAPPHIRE_RAPIDS, str(compiler))
    if tuned_by_ggml:
        assert defines == {"GGML_NATIVE": "ON"}
    else:
        assert defines == {"GGML_NATIVE": "OFF", "CMAKE_C_FLAGS": WITHOUT_AMX, "CMAKE_CXX_FLAGS": WITHOUT_AMX}


def test_amx_is_left_out_when_the_probe_does_not_compile() -> None:
    assert ggml_build.host_defines(SAPPHIRE_RAPIDS, "false")["GGML_NATIVE"] == "OFF"


def test_probe_agrees_with_cpuinfo() -> None:
    """On a machine without AMX the probe must fail; with it, either answer is allowed, but no hang."""
    cpuinfo = Path("/proc/cpuinfo")
    works = ggml_build.amx_works(os.environ.get("CXX", "c++"))
    if not cpuinfo.exists() or not ggml_build.has_amx(cpuinfo.read_text(encoding="utf-8")):
        assert not works


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.uname().machine != "x86_64", reason="x86-64 flags")
def test_flags_take_amx_out() -> None:
    """With the flags as host_defines orders them, the compiler no longer announces AMX."""
    flags = WITHOUT_AMX.replace("native", "sapphirerapids").split()
    command = [*os.environ.get("CC", "cc").split(), *flags, "-dM", "-E", "-x", "c", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "__AVX512VNNI__" in macros
    assert "__AMX_" not in macros


def test_requirement_is_the_pin_of_pyproject() -> None:
    from commandr_gguf import _native

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert ggml_build.requirement(text) == f"libggml-python=={_native._GGML_VERSION}"
    assert text.count(ggml_build.requirement(text)) == 2
    with pytest.raises(ggml_build.BuildError, match="pins no libggml-python"):
        ggml_build.requirement("[project]")


def test_cuda_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ggml_build.BuildError, match="nvcc"):
        ggml_build.cuda_defines({"PATH": str(tmp_path)})
    (tmp_path / "nvcc").symlink_to(shutil.which("false") or "/bin/false")
    with pytest.raises(ggml_build.BuildError, match="CUDAARCHS"):
        ggml_build.cuda_defines({"PATH": str(tmp_path)})
    with pytest.raises(ggml_build.BuildError, match="does not tell where its toolkit is"):
        ggml_build.cuda_defines({"PATH": str(tmp_path), "CUDAARCHS": "90"})


def test_cuda_with_a_toolkit_that_has_cublas(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cublas_v2.h").touch()
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f'#!/bin/sh\necho "#\\$ TOP={tmp_path}" >&2\necho "-D__CUDACC_VER_MAJOR__=13" >&2\n')
    nvcc.chmod(0o755)
    defines = ggml_build.cuda_defines({"PATH": f"{tmp_path}:/usr/bin:/bin", "CUDAARCHS": "86;90"})
    assert defines["CMAKE_CUDA_ARCHITECTURES"] == "86;90"
    assert defines["CMAKE_SHARED_LINKER_FLAGS"] == f"-Wl,-rpath,{tmp_path}/lib64"
    assert "CMAKE_CUDA_FLAGS" not in defines


def test_vulkan_names_all_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ggml_build.BuildError, match=r"glslc .*Vulkan headers.*SPIR-V"):
        ggml_build.vulkan_defines({"PATH": str(tmp_path)}, "false")
    (tmp_path / "glslc").symlink_to(shutil.which("true") or "/bin/true")
    assert ggml_build.vulkan_defines({"PATH": str(tmp_path)}, "true") == {"GGML_VULKAN": "ON"}


def test_metal_exists_only_on_a_mac() -> None:
    with pytest.raises(ggml_build.BuildError, match="Mac"):
        ggml_build.metal_defines("Linux")
    assert ggml_build.metal_defines("Darwin") == {"GGML_METAL": "ON"}
