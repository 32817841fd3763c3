"""The compiled library: ffi and lib, made by cffi from native/include/commandr.h.

The extension is compiled against one version of ggml's libraries, which another package installs. They are found
beside this package by the extension's run path; in an editable or per-user installation they lie elsewhere and are
loaded first, by absolute path.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

__all__ = ["ffi", "lib"]

_GGML_VERSION = "0.20.2.post1"  # as pinned in pyproject.toml


def _ggml_package() -> Path:
    """Returns the folder of the installed libggml package; ImportError unless it is the version compiled against."""
    try:
        import libggml
        from libggml._version import __version__ as found
    except ImportError as error:
        message = f"commandr_gguf needs the package libggml-python {_GGML_VERSION}, which is not installed"
        raise ImportError(message) from error
    if found != _GGML_VERSION:
        message = (
            f"commandr_gguf was built against libggml-python {_GGML_VERSION}, but {found} is installed: "
            f"install libggml-python=={_GGML_VERSION}"
        )
        raise ImportError(message)
    return Path(libggml.__path__[0])


def _load_ggml(package: Path) -> None:
    """Loads ggml's libraries, each after those it needs.

    Wheels hold three copies of each library under different names. Only the name that the others ask for is loaded,
    so that there is one ggml in the process.
    """
    pattern = "libggml*.0.dylib" if sys.platform == "darwin" else "libggml*.so.0"
    waiting = sorted(path for folder in ("lib", "lib64") for path in (package / folder).glob(pattern))
    while waiting:
        failed: list[Path] = []
        reason = ""
        for path in waiting:
            try:
                ctypes.CDLL(str(path))
            except OSError as error:
                failed.append(path)
                reason = str(error)
        if len(failed) == len(waiting):
            message = f"the libraries of libggml-python in {package} cannot be loaded: {reason}"
            raise ImportError(message)
        waiting = failed


_package = _ggml_package()
try:
    from commandr_gguf._native._commandr import ffi, lib
except ImportError:
    _load_ggml(_package)
    from commandr_gguf._native._commandr import ffi, lib
