"""Make the environment of the oracles, for `make test-oracle`: python tests/oracle/setup.py

The folder, $COMMANDR_ORACLE or .venv-oracle, becomes a virtual environment with torch, transformers 5 and
llama-cpp-python, the latter compiled for this machine as our own ggml is (about four minutes). llama.cpp's checkpoint
converter needs transformers 4, which goes to transformers4/ inside it, to be put before the rest by PYTHONPATH.

The tests never import these programs: they run them as processes, so that no process ever holds two versions of ggml.
Running this again does nothing when the pins below have not changed.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "native"))

import ggml_build  # noqa: E402  (a script beside the C sources)

PACKAGES = ["torch==2.13.0", "transformers==5.23.0", "numpy", "safetensors", "gguf", "sentencepiece", "psutil"]
LLAMA_CPP = "llama-cpp-python==0.3.36"
TRANSFORMERS_4 = ["transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2"]


def folder() -> Path:
    """Where the environment is, or goes."""
    return Path(os.environ.get("COMMANDR_ORACLE", ROOT / ".venv-oracle"))


def cmake_args() -> str:
    """What llama-cpp-python is compiled with: our own ggml's flags for this machine, and no image library."""
    defines = ggml_build.defines_of("source", "ON") | {"LLAVA_BUILD": "OFF"}
    return shlex.join(f"-D{name}={value}" for name, value in defines.items())


def main() -> int:
    target = folder()
    stamp = target / "installed.txt"
    flags = cmake_args()
    pins = "\n".join([*PACKAGES, LLAMA_CPP, flags, *TRANSFORMERS_4])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == pins:
        return 0
    if not (target / "bin" / "python").exists():
        venv.create(target, with_pip=True)
    pip = [str(target / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    steps = [
        ("torch and transformers 5", [*pip, *PACKAGES], {}),
        (
            "llama-cpp-python (compiles for about four minutes)",
            # pip's cache would hand out a wheel that was compiled with other flags.
            [*pip, "--no-cache-dir", "--force-reinstall", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA_CPP],
            {"CMAKE_ARGS": flags, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())},
        ),
        ("what llama-cpp-python needs", [*pip, LLAMA_CPP], {}),
        (
            "transformers 4 for llama.cpp's converter",
            [*pip, "--upgrade", "--no-deps", "--target", str(target / "transformers4"), *TRANSFORMERS_4],
            {},
        ),
    ]
    for what, command, environment in steps:
        print(f"oracle: installing {what}", flush=True)
        if subprocess.run(command, env=os.environ | environment, check=False).returncode:
            print(f"oracle: installing {what} failed", file=sys.stderr)
            return 1
    stamp.write_text(pins, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
