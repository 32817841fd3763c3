"""The extension that cffi compiles: its types are those of native/include/commandr.h, known only at run time."""

from typing import Any

ffi: Any
lib: Any
