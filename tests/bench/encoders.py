"""Nanoseconds a weight, on one core, of our encoders and of ggml's called directly; the bytes are compared as well.

python tests/bench/encoders.py
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libggml
import numpy as np
import numpy.typing as npt

from commandr_gguf.quantize import quantize_rows, row_size, type_find

TYPES = ("Q8_0", "Q4_K", "Q5_K", "Q6_K")


def ggml_encoder() -> Any:
    """ggml_quantize_chunk of the installed library."""
    pattern = "libggml-base*.0.dylib" if sys.platform == "darwin" else "libggml-base.so.0"
    function = ctypes.CDLL(str(next(Path(libggml.__path__[0]).glob(f"lib*/{pattern}")))).ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return function


def seconds(work: Callable[[], object]) -> float:
    """CPU time of this thread."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare our encoders with ggml's.")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    encode = ggml_encoder()
    random = np.random.default_rng(0)
    rows = random.standard_normal((128, 8192), np.float32)
    weights = random.uniform(0.01, 9, 8192).astype(np.float32)
    print("| type | importance matrix | ours, ns | ggml, ns | ratio |\n|---|---|---|---|---|")
    for name in TYPES:
        for imatrix in (None, weights):
            out = np.empty((len(rows), row_size(name, rows.shape[1])), np.uint8)
            kept: list[npt.NDArray[np.uint8]] = []
            address = None if imatrix is None else imatrix.ctypes.data
            arguments = (type_find(name), rows.ctypes.data, out.ctypes.data, 0, *rows.shape, address)

            def ours(name: str = name, kept: Any = kept, imatrix: Any = imatrix) -> None:
                kept[:] = [quantize_rows(name, rows, imatrix=imatrix, n_threads=1)]

            def theirs(arguments: Any = arguments) -> None:
                encode(*arguments)

            pairs = [(seconds(ours), seconds(theirs)) for _ in range(options.rounds)]
            if not np.array_equal(kept[0], out):
                raise SystemExit(f"the bytes of {name} differ")
            a, b = (statistics.median(pair[i] for pair in pairs) / rows.size * 1e9 for i in (0, 1))
            ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
            print(f"| {name} | {'with' if imatrix is not None else 'without'} | {a:.2f} | {b:.2f} | {ratio:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
