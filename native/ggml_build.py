"""Installs ggml's libraries into the running Python's environment: `python ggml_build.py VARIANT [--openmp ON|OFF]`.

Variants: `wheel` is the prebuilt one (AVX2, no OpenMP); `source` compiles for this machine's processor; `cuda`,
`vulkan` and `metal` are `source` with that backend. What a variant lacks is said in one sentence, with exit code 2.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = ("source", "wheel", "cuda", "vulkan", "metal")
VULKAN_PROGRAM = """
#include <vulkan/vulkan.h>
int main() { return vkEnumerateInstanceVersion(0) + sizeof(VkLayerSettingEXT); }
"""
NO_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")


class BuildError(Exception):
    """The variant cannot be built here; the message says what is missing."""


def requirement(pyproject: str) -> str:
    """Returns the pinned `libggml-python==...` of pyproject.toml's text."""
    found = re.search(r'"(libggml-python==[^"]+)"', pyproject)
    if found is None:
        message = "pyproject.toml pins no libggml-python"
        raise BuildError(message)
    return found[1]


def has_amx(cpuinfo: str) -> bool:
    """Returns whether the text of /proc/cpuinfo names the AMX tile extension."""
    return re.search(r"^flags\s*:.*\bamx_tile\b", cpuinfo, flags=re.MULTILINE) is not None


def amx_works(compiler: str) -> bool:
    """Returns whether AMX code that the C++ compiler makes for this machine computes a right product."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "amx_probe"
        source = Path(__file__).with_name("amx_probe.cpp")
        command = [*compiler.split(), "-O3", "-march=native", "-fPIC", str(source), "-o", str(probe)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return False
        return subprocess.run([str(probe)], capture_output=True, check=False).returncode == 0


def host_defines(cpuinfo: str, compiler: str) -> dict[str, str]:
    """Returns the CMake definitions that tune ggml for this machine, without AMX unless a run of it is proven.

    ggml appends its own -march=native behind any flags from outside, and in GCC the last word counts. So where AMX has
    to be switched off, ggml's tuning is switched off and ours, the same with AMX taken out again, stands in its place.
    """
    if not has_amx(cpuinfo) or amx_works(compiler):
        return {"GGML_NATIVE": "ON"}
    flags = " ".join(("-march=native", *NO_AMX))
    return {"GGML_NATIVE": "OFF", "CMAKE_C_FLAGS": flags, "CMAKE_CXX_FLAGS": flags}


def cuda_defines(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the definitions of the CUDA backend; installs the cuBLAS wheel where the toolkit has none."""
    nvcc = shutil.which(environment.get("CUDACXX", "nvcc"), path=environment.get("PATH"))
    if nvcc is None:
        message = "CUDA needs nvcc, which is not on the PATH: install the CUDA toolkit or set CUDACXX"
        raise BuildError(message)
    if "CUDAARCHS" not in environment and shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        message = "no NVIDIA GPU is present to compile for: name its architecture, as in CUDAARCHS=86"
        raise BuildError(message)
    toolkit, major = cuda_toolkit(nvcc)
    defines = {
        "GGML_CUDA": "ON",
        # Without the driver's memory mapping calls, linking needs no driver.
        "GGML_CUDA_NO_VMM": "ON",
        "CMAKE_CUDA_COMPILER": nvcc,
        "CMAKE_CUDA_ARCHITECTURES": environment.get("CUDAARCHS", "native"),
    }
    run_path = [toolkit / "lib64"]
    if not (toolkit / "include" / "cublas_v2.h").exists():
        cublas = cublas_wheel(major, Path(sysconfig.get_path("purelib")))
        defines["CMAKE_CUDA_FLAGS"] = f"-I{cublas / 'include'}"
        for name in ("cublas", "cublasLt"):
            defines[f"CUDA_{name}_LIBRARY"] = str(cublas / "lib" / f"lib{name}.so.{major}")
        run_path.append(cublas / "lib")
    defines["CMAKE_SHARED_LINKER_FLAGS"] = " ".join(f"-Wl,-rpath,{folder}" for folder in run_path)
    return defines


def cuda_toolkit(nvcc: str) -> tuple[Path, int]:
    """Returns the toolkit's folder and the first number of its version, both as nvcc tells them.

    nvcc is often a link or a small script, so its own place says nothing.
    """
    text = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True, check=False)
    folder = re.search(r"^#\$ TOP=(.+)$", text.stderr, flags=re.MULTILINE)
    major = re.search(r"-D__CUDACC_VER_MAJOR__=(\d+)", text.stderr)
    if folder is None or major is None:
        message = f"{nvcc} does not tell where its toolkit is: does `{nvcc} --dryrun` work?"
        raise BuildError(message)
    return Path(folder[1].strip()).resolve(), int(major[1])


def cublas_wheel(major: int, site_packages: Path) -> Path:
    """Installs cuBLAS for a CUDA major version and returns its folder with include and lib."""
    print("the CUDA toolkit has no cuBLAS: installing its wheel", flush=True)
    pip_install([f"nvidia-cublas=={major}.*" if major >= 13 else f"nvidia-cublas-cu{major}"])
    for header in (site_packages / "nvidia").glob("*/include/cublas_v2.h"):
        if (header.parent.parent / "lib" / f"libcublas.so.{major}").exists():
            return header.parent.parent
    message = f"the cuBLAS wheel for CUDA {major} has no headers or libraries in {site_packages / 'nvidia'}"
    raise BuildError(message)


def vulkan_defines(environment: Mapping[str, str], compiler: str) -> dict[str, str]:
    """Returns the definitions of the Vulkan backend; BuildError names all that is missing."""
    missing = []
    if shutil.which("glslc", path=environment.get("PATH")) is None:
        missing.append("glslc (Debian: glslc)")
    if not compiles(compiler, VULKAN_PROGRAM, "-lvulkan"):
        missing.append("the Vulkan headers, 1.3.272 or newer, and the loader (Debian 13: libvulkan-dev)")
    if not compiles(compiler, "#include <spirv/unified1/spirv.hpp>\nint main() {}"):
        missing.append("the SPIR-V headers (Debian: spirv-headers)")
    if missing:
        message = f"Vulkan needs {', '.join(missing)}"
        raise BuildError(message)
    return {"GGML_VULKAN": "ON"}


def compiles(compiler: str, source: str, *libraries: str) -> bool:
    """Returns whether a C++ program compiles and links."""
    command = [*compiler.split(), "-x", "c++", "-", "-o", os.devnull, *libraries]
    return subprocess.run(command, input=source, text=True, capture_output=True, check=False).returncode == 0


def metal_defines(system: str) -> dict[str, str]:
    """Returns the definitions of the Metal backend; BuildError anywhere but on a Mac."""
    if system != "Darwin":
        message = "Metal exists only on a Mac"
        raise BuildError(message)
    return {"GGML_METAL": "ON"}


def defines_of(variant: str, openmp: str) -> dict[str, str]:
    """Returns the CMake definitions of a variant that is compiled here."""
    cpuinfo = Path("/proc/cpuinfo")
    compiler = os.environ.get("CXX", "c++")
    # A backend comes first: what it lacks is said before anything is compiled.
    defines: dict[str, str] = {}
    if variant == "cuda":
        defines = cuda_defines(os.environ)
    elif variant == "vulkan":
        defines = vulkan_defines(os.environ, compiler)
    elif variant == "metal":
        defines = metal_defines(platform.system())
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    # llama.cpp builds its ggml with these products for Q8_0, BF16, F16 and F32, too; ggml alone leaves them out. RPC,
    # for workers on other hosts, is one small library more.
    return {**defines, **host_defines(text, compiler), "GGML_LLAMAFILE": "ON", "GGML_RPC": "ON", "GGML_OPENMP": openmp}


def pip_install(arguments: Sequence[str]) -> None:
    """Runs pip of this Python; BuildError when it fails, after its own output."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "install", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        message = "pip could not install it, see above"
        raise BuildError(message)


def install(variant: str, openmp: str) -> None:
    """Installs a variant in place of the one that is there. openmp: ON or OFF; the wheel has it off."""
    package = requirement((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    arguments = ["--force-reinstall", "--no-deps"]
    if variant == "wheel":
        arguments += ["--only-binary", "libggml-python"]
    else:
        # A cached wheel of an earlier build would have that build's options.
        arguments += ["--no-binary", "libggml-python", "--no-cache-dir"]
        for name, value in defines_of(variant, openmp).items():
            arguments += ["-C", f"cmake.define.{name}={value}"]
    pip_install([*arguments, package])


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Install ggml's libraries in one of their variants.")
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--openmp", choices=("ON", "OFF"), default="ON")
    options = parser.parse_args()
    try:
        install(options.variant, options.openmp)
    except BuildError as error:
        print(f"ggml ({options.variant}): {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
