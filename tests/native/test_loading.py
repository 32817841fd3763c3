"""The extension finds ggml's libraries wherever they are installed, loads each once, and refuses another version."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# In a process of its own. The finder of an editable installation would lead back to this tree.
PRELUDE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "Redirect" not in type(finder).__name__]
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", f"{PRELUDE}sys.path.insert(0, {str(folder)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with nothing but commandr_gguf._native in it: no libggml lies beside it, as the run path expects."""
    spec = find_spec("commandr_gguf._native")
    extension = find_spec("commandr_gguf._native._commandr")
    assert spec is not None
    assert spec.origin is not None
    assert extension is not None
    assert extension.origin is not None
    package = tmp_path / "commandr_gguf" / "_native"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    shutil.copy(spec.origin, package)
    shutil.copy(extension.origin, package)
    return tmp_path


def test_libraries_elsewhere_are_found(elsewhere: Path) -> None:
    result = run("from commandr_gguf._native import ffi, lib; print(lib.commandr_default_n_threads())", elsewhere)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_libraries_are_loaded_once(elsewhere: Path) -> None:
    code = "import commandr_gguf._native\nprint(open('/proc/self/maps').read())"
    for result in (
        run(code, elsewhere),
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False),
    ):
        assert result.returncode == 0, result.stderr
        files = {Path(line.split()[-1]) for line in result.stdout.splitlines() if "libggml" in line}
        libraries = [file.name.partition(".so")[0] for file in files]
        assert {"libggml", "libggml-base", "libggml-cpu"} <= set(libraries)
        assert len(libraries) == len(set(libraries))


def test_another_version_is_refused(elsewhere: Path) -> None:
    other = elsewhere / "libggml"
    other.mkdir()
    (other / "__init__.py").touch()
    (other / "_version.py").write_text("__version__ = '0.0.1'\n")
    result = run("import commandr_gguf._native", elsewhere)
    assert result.returncode == 1
    assert "ImportError: commandr_gguf was built against libggml-python" in result.stderr
    assert "but 0.0.1 is installed" in result.stderr


def test_a_missing_package_is_named(elsewhere: Path) -> None:
    result = run("sys.modules['libggml'] = None\nimport commandr_gguf._native", elsewhere)
    assert result.returncode == 1
    assert "ImportError: commandr_gguf needs the package libggml-python" in result.stderr


def test_broken_libraries_are_named(elsewhere: Path) -> None:
    """The right version, but with a library that is none."""
    import libggml._version

    other = elsewhere / "libggml"
    (other / "lib").mkdir(parents=True)
    (other / "__init__.py").touch()
    shutil.copy(libggml._version.__file__, other)
    suffix = "0.dylib" if sys.platform == "darwin" else "so.0"
    (other / "lib" / f"libggml.{suffix}").write_text("nothing")
    result = run("import commandr_gguf._native", elsewhere)
    assert result.returncode == 1
    assert f"ImportError: the libraries of libggml-python in {other} cannot be loaded" in result.stderr
