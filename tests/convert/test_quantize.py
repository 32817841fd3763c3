from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import shapes
from commandr_gguf.quantize import dequantize_rows
from convert.checkpoint import Checkpoint, widen
from convert.errors import CheckpointError, ConvertError, UnsupportedError
from convert.quantize import converted_rows
from convert.recipe import block_size, row_size
from convert.shard import SourceTensor

Floats = npt.NDArray[np.float32]
QUANTIZED = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_0", "IQ4_XS", "IQ4_NL", "Q3_K", "Q2_K")


class One:
    """A checkpoint of one tensor."""

    def __init__(self, folder: Path, values: Floats, dtype: str) -> None:
        (folder / "config.json").write_text("{}")
        shapes.write_safetensors(
            folder / "model.safetensors", {"w": (dtype, values.shape, shapes.encode(values, dtype))}
        )
        self.checkpoint = Checkpoint(folder)
        self.tensor: SourceTensor = self.checkpoint.tensors["w"]

    def converted(self, ggml_type: str, **options: Any) -> npt.NDArray[np.uint8]:
        blocks = [b.tobytes() for b in converted_rows(self.checkpoint, self.tensor, ggml_type, **options)]
        return np.frombuffer(b"".join(blocks), np.uint8)


Make = Callable[[Floats, str], One]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a checkpoint of one tensor from its values and their type in the file."""
    made: list[One] = []

    def one(values: Floats, dtype: str) -> One:
        made.append(One(tmp_path, values, dtype))
        return made[-1]

    yield one
    for item in made:
        item.checkpoint.close()


def test_every_bf16_value_widens_exactly() -> None:
    bits = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    out = np.empty(bits.shape, np.float32)
    widen(bits, out)
    assert (out.view(np.uint32) == bits.astype(np.uint32) << 16).all()


def test_f16_widens_exactly() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits[np.isfinite(bits.view(np.float16))].view(np.float16).reshape(-1, 31 * 2)
    out = np.empty(halves.shape, np.float32)
    widen(halves, out)
    assert (out.astype(np.float16) == halves).all()


@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("target", ["BF16", "F16", "F32"])
def test_float_to_float(make: Make, source: str, target: str) -> None:
    values = shapes.normal(1, "w", (9, 40))
    one = make(values, source)
    held = next(one.checkpoint.float_rows(one.tensor)).copy()
    assert one.converted(target).tobytes() == shapes.encode(held, target)


def test_rounding_to_bf16_is_to_nearest_even(make: Make) -> None:
    bits = np.array([[0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x80000000, 0xBF818000]], np.uint32)
    one = make(bits.view(np.float32), "F32")
    assert one.converted("BF16").view(np.uint16).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x8000, 0xBF82]


@pytest.mark.parametrize("target", QUANTIZED)
@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
def test_quantized_values_are_near(make: Make, source: str, target: str) -> None:
    one = make(shapes.normal(2, "w", (6, 512)), source)
    values = next(one.checkpoint.float_rows(one.tensor)).copy()
    blocks = one.converted(target).reshape(6, -1)
    assert blocks.shape[1] == row_size(target, 512)
    error = dequantize_rows(target, blocks, 512) - values
    # Normal numbers, and a bit less than the steps of an optimal code of the type's bits.
    assert (
        np.sqrt(np.mean(error**2))
        < {"8": 0.01, "6": 0.03, "5": 0.06, "4": 0.11, "3": 0.25, "2": 0.4}[target.lstrip("IQ")[0]]
    )


@pytest.mark.parametrize("target", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_blocks_and_threads_do_not_matter(make: Make, target: str, n_threads: int) -> None:
    one = make(shapes.normal(3, "w", (37, 256)), "BF16")
    whole = one.converted(target, n_threads=n_threads)
    parts = list(converted_rows(one.checkpoint, one.tensor, target, block_bytes=5 * 256 * 4))
    assert [len(part) for part in parts] == [5] * 7 + [2]
    assert (one.converted(target, n_threads=n_threads, block_bytes=5 * 256 * 4) == whole).all()
    assert (one.converted(target, block_bytes=1) == whole).all()


@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("target", ["BF16", "F16", "F32", "Q4_K"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers(make: Make, source: str, target: str, value: float) -> None:
    values = np.zeros((4, 256), np.float32)
    values[3, 255] = value
    one = make(values, source)
    with pytest.raises(CheckpointError, match=r"tensor w holds a NaN or an infinity"):
        one.converted(target)


def test_value_too_large_for_f16(make: Make) -> None:
    one = make(np.array([[1.0, 65519.0]], np.float32), "F32")
    assert one.converted("F16").view(np.float16).tolist() == [1.0, 65504.0]
    values = np.array([[1.0, -70000.0]], np.float32)
    with pytest.raises(UnsupportedError, match="tensor w holds a value beyond 65504.*choose BF16 or F32"):
        make(values, "F32").converted("F16")


def test_errors_of_the_native_library_name_the_tensor(make: Make) -> None:
    one = make(np.zeros((2, 100), np.float32), "F32")
    with pytest.raises(ConvertError, match="cannot quantize tensor w to Q4_K: a row of 100"):
        one.converted("Q4_K")


def test_file_that_shrinks_while_it_is_read(make: Make) -> None:
    one = make(np.zeros((64, 256), np.float32), "F32")
    rows = converted_rows(one.checkpoint, one.tensor, "F32", block_bytes=1024)
    next(rows)
    with one.tensor.path.open("r+b") as file:
        file.truncate(one.tensor.offset + 3000)
    with pytest.raises(CheckpointError, match="ends inside tensor w: it became shorter"):
        list(rows)


@pytest.mark.parametrize("ggml_type", ["F32", "F16", "BF16", *QUANTIZED])
def test_sizes_are_those_of_the_native_library(ggml_type: str) -> None:
    from commandr_gguf import quantize

    assert block_size(ggml_type) == quantize.block_size(ggml_type)
    assert row_size(ggml_type, 1024) == quantize.row_size(ggml_type, 1024)
