"""commandr_type_*: names and sizes of ggml's tensor types, against the table of the gguf package."""

from __future__ import annotations

import gguf
import pytest

from commandr_gguf._native import ffi, lib

# Of Q8_1, which no file holds, gguf has an outdated size.
TYPES = [t for t in sorted(gguf.GGMLQuantizationType, key=int) if t != gguf.GGMLQuantizationType.Q8_1]


@pytest.mark.parametrize("ggml_type", TYPES, ids=lambda t: t.name)
def test_name_block_and_row_size_agree_with_gguf(ggml_type: gguf.GGMLQuantizationType) -> None:
    block_size, type_size = gguf.GGML_QUANT_SIZES[ggml_type]
    assert ffi.string(lib.commandr_type_name(ggml_type)).decode() == ggml_type.name
    assert lib.commandr_type_find(ggml_type.name.encode()) == ggml_type
    assert lib.commandr_type_find(ggml_type.name.lower().encode()) == ggml_type
    assert lib.commandr_type_block_size(ggml_type) == block_size
    assert lib.commandr_type_row_size(ggml_type, 6 * block_size) == 6 * type_size


def test_numbers_without_a_type() -> None:
    retired = [4, 5, 31, 32, 33, 36, 37, 38]
    for number in (-1, -(2**31), 43, 2**31 - 1, *retired):
        assert lib.commandr_type_name(number) == ffi.NULL
        assert lib.commandr_type_block_size(number) == 0
        assert lib.commandr_type_row_size(number, 256) == 0
        assert not lib.commandr_type_needs_imatrix(number)


@pytest.mark.parametrize("name", [b"", b"Q4", b"Q4_K_M", b"Q4_KX", b"DEPRECATED", b" F32"])
def test_names_without_a_type(name: bytes) -> None:
    assert lib.commandr_type_find(name) == -1


def test_null_is_no_name() -> None:
    assert lib.commandr_type_find(ffi.NULL) == -1


def test_row_size_wants_whole_blocks_and_counts_beyond_32_bits() -> None:
    q4_k = lib.commandr_type_find(b"Q4_K")
    assert lib.commandr_type_row_size(q4_k, 255) == 0
    assert lib.commandr_type_row_size(q4_k, -256) == 0
    assert lib.commandr_type_row_size(q4_k, 256 << 32) == 144 << 32
    assert lib.commandr_type_row_size(lib.commandr_type_find(b"F64"), 2**62) == 0  # more bytes than 63 bits hold


def test_only_the_smallest_types_need_an_importance_matrix() -> None:
    needing = {t.name for t in TYPES if lib.commandr_type_needs_imatrix(t)}
    assert needing == {"IQ2_XXS", "IQ2_XS", "IQ1_S"}
