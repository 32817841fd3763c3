"""Make the environment of the oracles: python tests/oracle/setup.py [--variants [avx2] [amx]] [--servers]

The folder, $COMMANDR_ORACLE or .venv-oracle, becomes a virtual environment with torch, transformers 5 and
llama-cpp-python, the latter compiled for this machine as our own ggml is (about four minutes). llama.cpp's checkpoint
converter needs transformers 4, which goes to transformers4/ inside it, to be put before the rest by PYTHONPATH.

--variants adds what tests/bench/compare_llama_cpp.py compares besides, minutes each: llama-cpp-python compiled for no
more than AVX2 into llama.cpp-avx2/, and by clang for processors with AMX into llama.cpp-amx/, chosen by PYTHONPATH as
well; and our own program with ggml's prebuilt AVX2 libraries, an environment of its own in commandr-avx2/. Without
names of variants it takes those that this processor runs; any can be compiled anywhere.

--servers adds what tests/bench/server_load.py compares: what llama-cpp-python's server needs, and xllamacpp, whose
wheel carries llama.cpp's own server (compiled for AVX2, not for this machine).

The tests never import these programs: they run them as processes, so that no process ever holds two versions of ggml.
Running this again does nothing when the pins below have not changed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "native"))

import ggml_build  # noqa: E402  (a script beside the C sources)

PACKAGES = ["torch==2.13.0", "transformers==5.23.0", "numpy", "safetensors", "gguf", "sentencepiece", "psutil"]
LLAMA_CPP = "llama-cpp-python==0.3.36"
SERVERS = ["llama-cpp-python[server]==0.3.36", "xllamacpp==2026.10.11549"]
TRANSFORMERS_4 = ["transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2"]

AVX2 = dict.fromkeys(("GGML_AVX", "GGML_AVX2", "GGML_FMA", "GGML_F16C", "GGML_BMI2"), "ON")
AVX512 = {f"GGML_AVX512{part}": "ON" for part in ("", "_VBMI", "_VNNI", "_BF16")}
AMX = {f"GGML_AMX_{part}": "ON" for part in ("TILE", "INT8", "BF16")}
VARIANTS = {
    # The value: CMake definitions, and the compiler where it matters: GCC 12 breaks ggml's AMX set-up.
    "avx2": ({"GGML_NATIVE": "OFF"} | AVX2, {}),
    "amx": ({"GGML_NATIVE": "OFF"} | AVX2 | AVX512 | AMX, {"CC": "clang", "CXX": "clang++"}),
}


def folder() -> Path:
    """Where the environment is, or goes."""
    return Path(os.environ.get("COMMANDR_ORACLE", ROOT / ".venv-oracle"))


def cmake_args(defines: Mapping[str, str]) -> str:
    """CMake definitions for llama-cpp-python, without its image library."""
    return shlex.join(f"-D{name}={value}" for name, value in {**defines, "LLAVA_BUILD": "OFF"}.items())


def pip_install(target: Path) -> list[str]:
    """The command that installs into the environment."""
    return [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]


def run(what: str, command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """One step; whether it went well."""
    print(f"oracle: installing {what}", flush=True)
    cores = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count()))
    variables = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": cores} | dict(environment)
    if subprocess.run(command, env=variables, check=False).returncode:
        print(f"oracle: installing {what} failed", file=sys.stderr)
        return False
    return True


def install(target: Path) -> bool:
    """All but the variants; whether it went well."""
    stamp = target / "installed.txt"
    flags = cmake_args(ggml_build.defines_of("source", "ON"))
    pins = "\n".join([*PACKAGES, LLAMA_CPP, flags, *TRANSFORMERS_4])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == pins:
        return True
    if not (target / "bin" / "python").exists():
        venv.create(target, with_pip=True)
    pip = pip_install(target)
    steps: list[tuple[str, list[str], dict[str, str]]] = [
        ("torch and transformers 5", [*pip, *PACKAGES], {}),
        (
            "llama-cpp-python (compiles for about four minutes)",
            # pip's cache would hand out a wheel that was compiled with other flags.
            [*pip, "--no-cache-dir", "--force-reinstall", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA_CPP],
            {"CMAKE_ARGS": flags},
        ),
        ("what llama-cpp-python needs", [*pip, LLAMA_CPP], {}),
        (
            "transformers 4 for llama.cpp's converter",
            [*pip, "--upgrade", "--no-deps", "--target", str(target / "transformers4"), *TRANSFORMERS_4],
            {},
        ),
    ]
    if not all(run(*step) for step in steps):
        return False
    stamp.write_text(pins, encoding="utf-8")
    return True


def install_variant(target: Path, name: str) -> bool:
    """llama-cpp-python alone, compiled otherwise, into a folder of its own; whether it went well."""
    defines, compiler = VARIANTS[name]
    into = target / f"llama.cpp-{name}"
    stamp = into / "installed.txt"
    flags = cmake_args(defines)
    pins = "\n".join([LLAMA_CPP, flags, *compiler.values()])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == pins:
        return True
    missing = [program for program in compiler.values() if shutil.which(program) is None]
    if missing:
        print(f"oracle: llama.cpp for {name} needs {' and '.join(missing)} on the PATH", file=sys.stderr)
        return False
    shutil.rmtree(into, ignore_errors=True)
    command = [*pip_install(target), "--no-cache-dir", "--no-deps", "--no-binary", "llama-cpp-python"]
    command += ["--target", str(into), LLAMA_CPP]
    if not run(f"llama-cpp-python for {name} (compiles for minutes)", command, compiler | {"CMAKE_ARGS": flags}):
        return False
    stamp.write_text(pins, encoding="utf-8")
    return True


def install_servers(target: Path) -> bool:
    """The servers beside llama-cpp-python; whether it went well."""
    return run("the servers", [*pip_install(target), *SERVERS], {})


def install_ours(target: Path) -> bool:
    """Our program as it is now, with ggml's prebuilt libraries; whether it went well."""
    into = target / "commandr-avx2"
    if not (into / "bin" / "python").exists():
        venv.create(into, with_pip=True)
    return run(
        "commandr-gguf with ggml for AVX2", [*pip_install(into), "--only-binary", "libggml-python", str(ROOT)], {}
    )


def runnable() -> list[str]:
    """The variants that this processor runs."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.exists() else ""
    return [name for name, found in (("avx2", " avx2 " in text), ("amx", ggml_build.has_amx(text))) if found]


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the environment of the oracles.")
    parser.add_argument(
        "--variants", nargs="*", choices=VARIANTS, help="builds of llama.cpp to compare with, see above"
    )
    parser.add_argument("--servers", action="store_true", help="servers to compare with, see above")
    options = parser.parse_args()
    target = folder()
    if not install(target) or (options.servers and not install_servers(target)):
        return 1
    if options.variants is None:
        return 0
    names = options.variants or runnable()
    failed = [name for name in names if not install_variant(target, name)]
    if "avx2" in names and not install_ours(target):
        failed.append("ours")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
