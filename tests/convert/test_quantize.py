from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import shapes
from commandr_gguf.quantize import dequantize_rows
from convert.blocks import Block, convert_block
from convert.checkpoint import Checkpoint
from convert.errors import CheckpointError, UnsupportedError
from convert.ggml_types import block_size, row_size
from convert.plan import PlannedTensor
from convert.quantize import to_floats
from convert.rows import BLOCK_BYTES, FileRows, row_blocks
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
        self.tensor: SourceTensor = Checkpoint(folder).tensors["w"]
        self.rows = FileRows()

    def floats(self) -> Floats:
        return self.rows.floats(self.tensor, 0, self.tensor.n_rows)

    def convert(self, ggml_type: str, block_bytes: int = BLOCK_BYTES) -> tuple[npt.NDArray[np.uint8], int]:
        """All of it, block by block, and the number of values that are no numbers."""
        planned = PlannedTensor("w", self.tensor, ggml_type)
        blocks = [
            convert_block(self.rows, Block(planned, first, n)) for first, n in row_blocks(self.tensor, block_bytes)
        ]
        return np.concatenate([data for data, _ in blocks]).reshape(-1), sum(n for _, n in blocks)

    def converted(self, ggml_type: str, block_bytes: int = BLOCK_BYTES) -> npt.NDArray[np.uint8]:
        data, n_nonfinite = self.convert(ggml_type, block_bytes)
        assert n_nonfinite == 0
        return data


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
        item.rows.close()


def test_every_bf16_value_widens_exactly(make: Make) -> None:
    bits = np.arange(2**16, dtype=np.uint32).reshape(256, 256) << 16
    data, n_nonfinite = make(bits.view(np.float32), "BF16").convert("F32")
    assert (data.view(np.uint32) == bits.reshape(-1)).all()
    assert n_nonfinite == 2 * 128


def test_f16_widens_exactly(make: Make) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    halves = bits[np.isfinite(bits.view(np.float16))].view(np.float16).reshape(-1, 31 * 2)
    data = make(halves.astype(np.float32), "F16").converted("F32")
    assert (data.view(np.float32) == halves.reshape(-1).astype(np.float32)).all()


@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("target", ["BF16", "F16", "F32"])
def test_float_to_float(make: Make, source: str, target: str) -> None:
    values = shapes.normal(1, "w", (9, 40))
    one = make(values, source)
    held = one.floats()
    assert one.converted(target).tobytes() == shapes.encode(held, target)


def test_rounding_to_bf16_is_to_nearest_even(make: Make) -> None:
    bits = np.array([[0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x80000000, 0xBF818000]], np.uint32)
    one = make(bits.view(np.float32), "F32")
    assert one.converted("BF16").view(np.uint16).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x8000, 0xBF82]


@pytest.mark.parametrize("target", QUANTIZED)
@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
def test_quantized_values_are_near(make: Make, source: str, target: str) -> None:
    one = make(shapes.normal(2, "w", (6, 512)), source)
    values = one.floats()
    blocks = one.converted(target).reshape(6, -1)
    assert blocks.shape[1] == row_size(target, 512)
    error = dequantize_rows(target, blocks, 512) - values
    # Normal numbers, and a bit less than the steps of an optimal code of the type's bits.
    assert (
        np.sqrt(np.mean(error**2))
        < {"8": 0.01, "6": 0.03, "5": 0.06, "4": 0.11, "3": 0.25, "2": 0.4}[target.lstrip("IQ")[0]]
    )


@pytest.mark.parametrize("target", ["F32", "F16", "BF16", "Q8_0", "Q4_K"])
def test_blocks_do_not_matter(make: Make, target: str) -> None:
    one = make(shapes.normal(3, "w", (37, 256)), "BF16")
    whole = one.converted(target)
    assert [n for _, n in row_blocks(one.tensor, 5 * 256 * 4)] == [5] * 7 + [2]
    assert (one.converted(target, block_bytes=5 * 256 * 4) == whole).all()
    assert (one.converted(target, block_bytes=1) == whole).all()


@pytest.mark.parametrize("source", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("target", ["BF16", "F16", "F32", "Q4_K", "Q8_0"])
def test_values_that_are_no_numbers_are_counted_and_kept_or_zero(make: Make, source: str, target: str) -> None:
    values = shapes.normal(4, "w", (4, 256))
    values[0, 3], values[1, 7], values[3, 255] = np.nan, np.inf, -np.inf
    data, n_nonfinite = make(values, source).convert(target)
    assert n_nonfinite == 3
    floats = to_floats(target, data.reshape(4, -1), 256)
    bad = ~np.isfinite(values)
    if target in {"F32", "F16", "BF16"}:
        assert np.array_equal(floats[bad], values[bad], equal_nan=True)
    else:
        assert (np.abs(floats[bad]) < 0.2).all()
    assert np.abs(floats[~bad] - values[~bad]).max() < 0.4


def test_value_too_large_for_f16(make: Make) -> None:
    one = make(np.array([[1.0, 65504.0]], np.float32), "F32")
    assert one.converted("F16").view(np.float16).tolist() == [1.0, 65504.0]
    values = np.array([[1.0, -70000.0]], np.float32)
    with pytest.raises(UnsupportedError, match="tensor w cannot be converted to F16: .*row 0, column 1 .* 65504"):
        make(values, "F32").converted("F16")


def test_errors_of_the_native_library_name_the_tensor(make: Make) -> None:
    one = make(np.zeros((2, 100), np.float32), "F32")
    with pytest.raises(UnsupportedError, match="tensor w cannot be converted to Q4_K: a row of 100"):
        one.converted("Q4_K")


def test_file_that_shrinks_while_it_is_read(make: Make) -> None:
    one = make(np.zeros((64, 256), np.float32), "F32")
    one.rows.read(one.tensor, 0, 1)
    with one.tensor.path.open("r+b") as file:
        file.truncate(one.tensor.offset + 3000)
    with pytest.raises(CheckpointError, match="ends inside tensor w: it became shorter"):
        one.converted("Q8_0")


@pytest.mark.parametrize("ggml_type", ["F32", "F16", "BF16", *QUANTIZED])
def test_sizes_are_those_of_the_native_library(ggml_type: str) -> None:
    from commandr_gguf import quantize

    assert block_size(ggml_type) == quantize.block_size(ggml_type)
    assert row_size(ggml_type, 1024) == quantize.row_size(ggml_type, 1024)
