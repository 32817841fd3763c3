"""commandr_convert_rows, against ggml's own entry point called directly."""

from __future__ import annotations

import ctypes
import platform
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import libggml
import numpy as np
import numpy.typing as npt
import pytest

from commandr_gguf._native import ffi, lib

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

# The types that the converter's recipes use, with the largest root mean square error that a normal distribution of
# deviation 1 may suffer: up to a fifth above what it does suffer.
RECIPE_TYPES = {
    "F32": 0.0,
    "F16": 2.5e-4,
    "BF16": 1.9e-3,
    "Q8_0": 0.0062,
    "Q6_K": 0.021,
    "Q5_K": 0.042,
    "Q5_1": 0.042,
    "Q5_0": 0.051,
    "Q4_K": 0.083,
    "Q4_1": 0.087,
    "Q4_0": 0.101,
    "IQ4_NL": 0.083,
    "IQ4_XS": 0.087,
    "Q3_K": 0.17,
    "Q2_K": 0.31,
}
# Without IQ1_S, IQ1_M, IQ2_XS and IQ2_S, whose tables alone take ggml many seconds.
OTHER_TYPES = ["IQ2_XXS", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"]
OURS = {"Q8_0", "Q4_K", "Q5_K", "Q6_K"}  # have encoders of our own
NOT_QUANTIZABLE = ["Q8_1", "Q8_K", "I8", "I16", "I32", "I64", "F64"]


def type_of(name: str) -> int:
    number: int = lib.commandr_type_find(name.encode())
    assert number >= 0
    return number


def pointer(array: Floats | None) -> Any:
    return ffi.NULL if array is None else ffi.from_buffer("float[]", array)


def quantize(name: str, rows: Floats, imatrix: Floats | None = None, n_threads: int = 1) -> Bytes:
    n_rows, n_per_row = rows.shape
    row_size = lib.commandr_type_row_size(type_of(name), n_per_row)
    out = np.full(n_rows * row_size + 1, 0xA5, np.uint8)  # one byte more, which must stay
    dst = ffi.from_buffer(out)
    src, f32 = ffi.from_buffer(rows), type_of("F32")
    status = lib.commandr_convert_rows(
        f32, src, type_of(name), dst, n_rows, n_per_row, pointer(imatrix), n_threads, ffi.NULL
    )
    assert status == lib.COMMANDR_OK, ffi.string(lib.commandr_last_error())
    assert out[-1] == 0xA5
    return out[:-1]


def dequantize(name: str, blocks: Bytes, shape: tuple[int, int], n_threads: int = 1) -> Floats:
    out = np.empty(shape, np.float32)
    src, dst, f32 = ffi.from_buffer(blocks), ffi.from_buffer(out), type_of("F32")
    status = lib.commandr_convert_rows(type_of(name), src, f32, dst, *shape, ffi.NULL, n_threads, ffi.NULL)
    assert status == lib.COMMANDR_OK, ffi.string(lib.commandr_last_error())
    return out


def normal(shape: tuple[int, int], seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    package = Path(libggml.__path__[0])
    pattern = "libggml-base*.0.dylib" if sys.platform == "darwin" else "libggml-base.so.0"
    library = ctypes.CDLL(str(next(package.glob(f"lib*/{pattern}"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library


def quantize_directly(ggml: ctypes.CDLL, name: str, rows: Floats, imatrix: Floats | None) -> Bytes:
    n_rows, n_per_row = rows.shape
    out = np.empty(n_rows * lib.commandr_type_row_size(type_of(name), n_per_row), np.uint8)
    weights = None if imatrix is None else imatrix.ctypes.data
    ggml.ggml_quantize_chunk(type_of(name), rows.ctypes.data, out.ctypes.data, 0, n_rows, n_per_row, weights)
    return out


@pytest.mark.parametrize(
    ("name", "with_imatrix"),
    [(name, False) for name in (*RECIPE_TYPES, *OTHER_TYPES) if name != "IQ2_XXS"]
    + [(name, True) for name in (*RECIPE_TYPES, *OTHER_TYPES)],
)
def test_same_bytes_as_ggml_with_any_number_of_threads(ggml: ctypes.CDLL, name: str, with_imatrix: bool) -> None:
    if platform.machine() not in {"x86_64", "AMD64"} and name in OURS:
        pytest.skip("compilers may contract a * b + c in ggml's encoders here, which ours never do")
    # Four rows of 16384 are a piece of work. The other types are slow, but go the same way.
    n_rows, n_per_row = (17, 16384) if name in RECIPE_TYPES else (3, 1024)
    rows = normal((n_rows, n_per_row))
    imatrix = np.random.default_rng(2).uniform(0.01, 9, n_per_row).astype(np.float32) if with_imatrix else None
    expected = quantize_directly(ggml, name, rows, imatrix)
    for n_threads in (1, 2, 3, 0):
        np.testing.assert_array_equal(quantize(name, rows, imatrix, n_threads), expected)


@pytest.mark.parametrize(("name", "bound"), RECIPE_TYPES.items())
def test_round_trip(name: str, bound: float) -> None:
    rows = normal((67, 4096))
    back = dequantize(name, quantize(name, rows, n_threads=2), rows.shape, n_threads=2)
    assert np.sqrt(np.mean((back - rows) ** 2, dtype=np.float64)) <= bound
    np.testing.assert_array_equal(dequantize(name, quantize(name, rows), rows.shape), back)


@pytest.mark.parametrize("n_rows", [1, 2, 7, 8, 9, 31, 33])
@pytest.mark.parametrize("n_per_row", [32, 16384, 16416, 131072 + 32])
def test_every_row_arrives(n_rows: int, n_per_row: int) -> None:
    rows = np.repeat(np.arange(1, n_rows + 1, dtype=np.float32)[:, None], n_per_row, axis=1)
    back = dequantize("Q8_0", quantize("Q8_0", rows, n_threads=3), rows.shape, n_threads=3)
    np.testing.assert_allclose(back, rows, rtol=1e-3)


@pytest.mark.parametrize("name", [*RECIPE_TYPES, *OTHER_TYPES])
@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1e-9, 1e3])
def test_any_scale_comes_back_finite(name: str, scale: float) -> None:
    rows = normal((2, 512)) * np.float32(scale)
    ones = np.ones(512, np.float32)
    back = dequantize(name, quantize(name, rows, ones), rows.shape)
    assert np.isfinite(back).all()
    assert np.abs(back).max() <= 2 * np.abs(rows).max() + 1e-6


def test_no_rows_is_no_work() -> None:
    n_nonfinite = ffi.new("int64_t *", 7)
    types = type_of("Q8_0"), type_of("Q4_0")
    status = lib.commandr_convert_rows(types[0], ffi.NULL, types[1], ffi.NULL, 0, 32, ffi.NULL, 2, n_nonfinite)
    assert (status, n_nonfinite[0]) == (lib.COMMANDR_OK, 0)


@pytest.mark.parametrize("source", ["BF16", "F16", "Q8_0", "Q6_K"])
@pytest.mark.parametrize("target", ["F16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_one_type_to_another_is_the_way_over_floats(source: str, target: str, n_threads: int) -> None:
    shape = (21, 16384)
    blocks = quantize(source, normal(shape))
    n_nonfinite = ffi.new("int64_t *")
    out = np.empty(shape[0] * lib.commandr_type_row_size(type_of(target), shape[1]), np.uint8)
    places = type_of(source), ffi.from_buffer(blocks), type_of(target), ffi.from_buffer(out)
    assert lib.commandr_convert_rows(*places, *shape, ffi.NULL, n_threads, n_nonfinite) == lib.COMMANDR_OK
    expected = blocks if source == target else quantize(target, dequantize(source, blocks, shape))
    np.testing.assert_array_equal(out, expected)


def test_nonfinite_values_are_counted_and_zero_in_blocks() -> None:
    rows = normal((40, 8192))
    rows[3, 5], rows[3, 6], rows[39, 8191] = np.nan, np.inf, -np.inf
    n_nonfinite = ffi.new("int64_t *")
    for name in ("Q4_K", "F32"):
        out = np.empty(40 * lib.commandr_type_row_size(type_of(name), 8192), np.uint8)
        places = type_of("F32"), ffi.from_buffer(rows), type_of(name), ffi.from_buffer(out)
        assert lib.commandr_convert_rows(*places, 40, 8192, ffi.NULL, 2, n_nonfinite) == lib.COMMANDR_OK
        assert n_nonfinite[0] == 3
        zeroed = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
        np.testing.assert_array_equal(
            out, quantize(name, zeroed) if name == "Q4_K" else rows.view(np.uint8).reshape(-1)
        )


def refused(name: str | int, rows: Floats, imatrix: Floats | None = None, **changed: Any) -> tuple[int, str]:
    """Returns status and message of a call that must fail."""
    out = np.full(rows.nbytes + 64, 0xA5, np.uint8)
    arguments = {
        "src_type": type_of("F32"),
        "src": ffi.from_buffer(rows),
        "type": type_of(name) if isinstance(name, str) else name,
        "dst": ffi.from_buffer(out),
        "n_rows": rows.shape[0],
        "n_per_row": rows.shape[1],
        "imatrix": pointer(imatrix),
        "n_threads": 2,
        "n_nonfinite": ffi.NULL,
    }
    status = lib.commandr_convert_rows(*(arguments | changed).values())
    return status, ffi.string(lib.commandr_last_error()).decode()


@pytest.mark.parametrize("name", NOT_QUANTIZABLE)
def test_type_without_an_encoder_is_refused_by_name(name: str) -> None:
    status, message = refused(name, normal((1, 256)))
    assert status == lib.COMMANDR_ERROR_UNSUPPORTED
    assert message == f"{name} is not a type that floats can be quantized to"


@pytest.mark.parametrize("name", ["Q8_1", "I32", "F64"])
def test_type_without_a_decoder_is_refused_by_name(name: str) -> None:
    status, message = refused("F32", normal((1, 4096)), src_type=type_of(name), n_rows=1, n_per_row=256)
    assert (status, message) == (lib.COMMANDR_ERROR_UNSUPPORTED, f"{name} cannot be turned into floats")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"type": 99}, "there is no ggml type 99"),
        ({"type": 4}, "there is no ggml type 4"),
        ({"src_type": 99}, "there is no ggml type 99"),
        ({"n_rows": -1}, "n_rows is -1"),
        ({"n_per_row": 0}, "n_per_row is 0"),
        ({"n_per_row": 2**31}, "n_per_row is 2147483648"),
        ({"n_per_row": 255}, "rows of 255 elements are not whole blocks of Q4_K, which have 256"),
        ({"n_rows": 2**60, "n_per_row": 2**20}, "more than memory can hold"),
        ({"src": ffi.NULL}, "src is NULL"),
        ({"dst": ffi.NULL}, "dst is NULL"),
    ],
)
def test_bad_arguments(changed: dict[str, Any], expected: str) -> None:
    status, message = refused("Q4_K", normal((2, 256)), **changed)
    assert status == lib.COMMANDR_ERROR_ARGUMENT
    assert expected in message


@pytest.mark.parametrize(
    ("name", "value"), [("BF16", 3.4e38), ("F16", 65520.0), ("F16", -1e9), ("Q8_0", 32800.0), ("Q4_K", -32800.0)]
)
def test_place_of_a_value_that_the_type_cannot_hold_is_named(name: str, value: float) -> None:
    rows = normal((300, 4096))
    rows[217, 3001] = rows[290, 5] = value
    status, message = refused(name, rows)
    assert status == lib.COMMANDR_ERROR_ARGUMENT
    assert re.fullmatch(rf"the value at row 217, column 3001 is beyond .*, the largest that {name} can hold", message)


@pytest.mark.parametrize("name", ["F32", "BF16", "F16", "Q8_0", "IQ4_XS"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_are_refused_with_their_number(name: str, value: float) -> None:
    rows = normal((30, 4096))
    rows[17, 3001] = rows[29, 5] = value
    assert refused(name, rows) == (lib.COMMANDR_ERROR_ARGUMENT, "2 values are NaN or infinite")


def test_largest_values_are_held() -> None:
    largest = {"F32": 3.4028234e38, "BF16": 3.3895e38, "F16": 65504.0, "Q8_0": 32752.0, "Q4_1": 32752.0}
    for name, value in largest.items():
        rows = np.full((1, 256), value, np.float32)
        rows[0, ::3] *= -1
        assert np.isfinite(dequantize(name, quantize(name, rows), rows.shape)).all()


def test_missing_or_bad_importance_matrix() -> None:
    rows = normal((1, 256))
    status, message = refused("IQ2_XXS", rows)
    assert status == lib.COMMANDR_ERROR_ARGUMENT
    assert message == "IQ2_XXS needs an importance matrix"
    for bad in (np.nan, -1.0, np.inf, 1e30):
        imatrix = np.ones(256, np.float32)
        imatrix[77] = bad
        status, message = refused("Q4_K", rows, imatrix)
        assert status == lib.COMMANDR_ERROR_ARGUMENT
        assert "at column 77" in message


def test_other_python_threads_run_meanwhile() -> None:
    rows = normal((64, 4096))
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    start = time.perf_counter()
    quantize("IQ4_XS", rows)
    end = time.perf_counter()
    done.set()
    ticker.join()
    # The call takes a hundred times as long as a tick, and a held lock would allow two ticks at the most.
    assert sum(start < t < end for t in ticks) >= 5
