"""Writes the C source of commandr_gguf._native._commandr: `python cffi_build.py commandr.h _commandr.c`.

The header is the only description of the C API. cffi's parser knows no preprocessor, so the directives are dropped
here; macros that name a number are kept as constants.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cffi import FFI

MODULE = "commandr_gguf._native._commandr"

# C functions that call Python, one for each callback type of the header. The user data is a handle of ffi.new_handle.
CALLBACKS = """
extern "Python" bool commandr_py_on_load(float fraction, void * user_data);
extern "Python" bool commandr_py_on_eval(int64_t n_done, int64_t n_total, void * user_data);
extern "Python" void commandr_py_on_log(int32_t level, const char * text, void * user_data);
"""


def declarations(header: str) -> str:
    """Returns the header as cffi's cdef takes it: without comments, directives and the C++ guards."""
    text = re.sub(r"/\*.*?\*/", " ", header, flags=re.DOTALL)
    text = re.sub(r"#ifdef __cplusplus\n.*?#endif\n", "", text, flags=re.DOTALL)
    constants = [f"#define {name} ..." for name in re.findall(r"^#define (\w+)[ \t]+\S", text, flags=re.MULTILINE)]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return "\n".join([*constants, *lines])


def main(header: str, output: str) -> None:
    """Writes the module's source to output. cffi leaves a file that would not change alone, hence the touch."""
    ffi = FFI()
    ffi.cdef(declarations(Path(header).read_text(encoding="utf-8")) + CALLBACKS)
    ffi.set_source(MODULE, '#include "commandr.h"')
    ffi.emit_c_code(output)
    Path(output).touch()


if __name__ == "__main__":
    main(*sys.argv[1:])
