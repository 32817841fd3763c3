"""Importance matrices in both of llama.cpp's formats."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from convert.errors import ArgumentError
from convert.imatrix import column_weights, read_imatrix

Q, V, HEAD = "blk.0.attn_q.weight", "blk.0.attn_v.weight", "token_embd.weight"


def write_gguf(
    path: Path, tensors: Mapping[str, npt.ArrayLike], *, kind: str = "imatrix", dtype: npt.DTypeLike = np.float32
) -> Path:
    """As llama.cpp's imatrix program does."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # that program writes no architecture
    writer.add_type(kind)
    writer.add_array("imatrix.datasets", ["wiki.txt", "code.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in tensors.items():
        writer.add_tensor(name, np.atleast_2d(np.asarray(values, dtype)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def entry(name: str, sums: Sequence[float], count: float) -> dict[str, Any]:
    return {f"{name}.in_sum2": sums, f"{name}.counts": [count]}


def floats(values: Sequence[float]) -> npt.NDArray[np.float32]:
    return np.asarray(values, np.float32)


def legacy(entries: Mapping[str, tuple[int, Sequence[float]]], *, end: bytes = b"") -> bytes:
    data = struct.pack("<i", len(entries))
    for name, (n_calls, values) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", n_calls, len(values))
        data += np.asarray(values, "<f4").tobytes()
    return data + end


def test_weights_are_mean_squares_as_llama_cpp_computes_them(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", entry(Q, [1, 10, 0.1, 0], 3) | entry(V, [2, 4], 1536.4))
    imatrix = read_imatrix(path)
    expected = floats([1, 10, 0.1, 0]) / np.float32(3)
    np.testing.assert_array_equal(imatrix.columns(Q, 4), expected, strict=True)
    np.testing.assert_array_equal(imatrix.columns(V, 2), floats([2, 4]) / np.float32(1536))
    assert imatrix.columns("blk.0.ffn_up.weight", 4) is None
    assert (imatrix.datasets, imatrix.n_chunks) == (("wiki.txt", "code.txt"), 3)
    assert imatrix.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_columns_never_counted_weigh_one_each(tmp_path: Path) -> None:
    imatrix = read_imatrix(write_gguf(tmp_path / "x.gguf", entry(Q, [0, 0, 0, 0], 0)))
    np.testing.assert_array_equal(imatrix.columns(Q, 4), np.ones(4, np.float32))


def test_the_old_binary_format(tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    path.write_bytes(legacy({Q: (4, [8, 2]), V: (7, [3, 5])}, end=struct.pack("<ii", 7, 8) + b"wiki.txt"))
    imatrix = read_imatrix(path)
    np.testing.assert_array_equal(imatrix.columns(Q, 2), floats([2, 0.5]))
    np.testing.assert_array_equal(imatrix.columns(V, 2), floats([3, 5]) / np.float32(7))
    assert (imatrix.datasets, imatrix.n_chunks) == (("wiki.txt",), 7)
    path.write_bytes(legacy({Q: (4, [8, 2])}))
    assert read_imatrix(path).datasets == ()


def test_the_head_may_stand_under_its_own_name(tmp_path: Path) -> None:
    other = entry("output.weight", [2, 4], 2)
    assert read_imatrix(write_gguf(tmp_path / "1", other)).columns(HEAD, 2).tolist() == [1, 2]  # type: ignore[union-attr]
    both = other | entry(HEAD, [6, 8], 2)
    assert read_imatrix(write_gguf(tmp_path / "2", both)).columns(HEAD, 2).tolist() == [3, 4]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "the GGUF file is no importance matrix"),
        ({f"{Q}.in_sum2": [1, 2]}, f"{Q}.counts is missing"),
        ({f"{Q}.counts": [1]}, "the GGUF file is no importance matrix"),
        (entry(Q, [1, -1], 3), f"{Q} has sums or a count that are negative, infinite or no number"),
        (entry(Q, [1, np.nan], 3), f"{Q} has sums or a count"),
        (entry(Q, [1, np.inf], 3), f"{Q} has sums or a count"),
        (entry(Q, [0, 0], 3), f"the entry of {Q} is 0 in every column"),
        (entry(Q, [1, 2], -3), f"{Q} has sums or a count"),
        (entry(Q, [1, 2], np.nan), f"{Q} has sums or a count"),
        ({f"{Q}.in_sum2": [1, 2], f"{Q}.counts": [1, 1]}, f"{Q} has 2 counts"),
    ],
)
def test_an_entry_at_fault_is_named(tensors: Mapping[str, npt.ArrayLike], message: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", tensors)
    with pytest.raises(ArgumentError, match=f"x.gguf:? {message}"):
        read_imatrix(path)


def test_entries_of_another_type_are_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", entry(Q, [1, 2], 3), dtype=np.float16)
    with pytest.raises(ArgumentError, match="are not in F32"):
        read_imatrix(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf", entry(Q, [1, 2], 3), kind="model")
    text = tmp_path / "text.txt"
    text.write_text("An importance matrix it is not.")
    for path in (model, text):
        with pytest.raises(ArgumentError, match=f"{path.name}: .* no importance matrix"):
            read_imatrix(path)
    with pytest.raises(ArgumentError, match="absent: cannot be read: No such file"):
        read_imatrix(tmp_path / "absent")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "x.gguf", entry(Q, [1, 2], 3)).read_bytes()
    whole = whole[: whole.rindex(floats([3]).tobytes()) + 4]  # without the padding behind the last values
    old = legacy({Q: (4, [8, 2])}, end=struct.pack("<ii", 7, 8) + b"wiki.txt")
    optional = len(legacy({Q: (4, [8, 2])}))
    path = tmp_path / "cut"
    for data in (whole, old):
        for n in range(len(data)):
            if data is old and n == optional:
                continue
            path.write_bytes(data[:n])
            with pytest.raises(ArgumentError, match="cut"):
                read_imatrix(path)


def test_lengths_in_an_old_file_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    for data in (
        struct.pack("<i", 2**31 - 1),
        struct.pack("<ii", 1, 2**31 - 1),
        struct.pack("<ii", 1, -1),
        struct.pack("<ii1sii", 1, 1, b"a", 1, 2**31 - 1),
        struct.pack("<ii1sii", 1, 1, b"a", 1, -1),
    ):
        path.write_bytes(data)
        with pytest.raises(ArgumentError, match="is no importance matrix, or is damaged"):
            read_imatrix(path)


def test_another_models_matrix_is_refused(tmp_path: Path) -> None:
    imatrix = read_imatrix(write_gguf(tmp_path / "x.gguf", entry(Q, [1, 2], 3)))
    with pytest.raises(ArgumentError, match=f"has 2 columns for {Q}, whose rows have 4: .* another model"):
        imatrix.columns(Q, 4)


def test_tensors_without_an_entry_are_noted_unless_their_type_needs_one(tmp_path: Path) -> None:
    imatrix = read_imatrix(write_gguf(tmp_path / "x.gguf", entry(Q, [3, 6], 3)))
    tensors = [(Q, "IQ2_XS", 2), (HEAD, "Q6_K", 2), ("output_norm.weight", "F32", 2), ("blk.1.attn_q.weight", "F16", 2)]
    weights, notes = column_weights(imatrix, tensors)
    assert {name: value.tolist() for name, value in weights.items()} == {Q: [1, 2]}
    assert notes == [f"{imatrix.path} has no entry for {HEAD}: rounded without weights"]
    with pytest.raises(ArgumentError, match=f"tensor {V} cannot be IQ3_S without an importance matrix: .* no entry"):
        column_weights(imatrix, [*tensors, (V, "IQ3_S", 2)])
    with pytest.raises(ArgumentError, match=f"tensor {V} cannot be Q2_K without"):
        column_weights(imatrix, [(Q, "F16", 2), (V, "Q2_K", 2)], recipe="Q2_K_S")
    assert column_weights(imatrix, [(Q, "F16", 2), (V, "Q2_K", 2)], recipe="Q2_K")[0] == {}


def test_entries_for_tensors_that_the_model_lacks_are_of_another_model(tmp_path: Path) -> None:
    imatrix = read_imatrix(write_gguf(tmp_path / "x.gguf", entry(Q, [3, 6], 3) | entry("blk.9.ffn_up.weight", [1], 3)))
    with pytest.raises(ArgumentError, match="has an entry for blk.9.ffn_up.weight, which this model lacks"):
        column_weights(imatrix, [(Q, "Q4_K", 2)])


def test_without_a_matrix_types_that_need_one_are_refused() -> None:
    assert column_weights(None, [(Q, "Q4_K", 256)]) == ({}, [])
    with pytest.raises(ArgumentError, match=f"tensor {Q} cannot be IQ2_XS .*: make one with 'commandr imatrix"):
        column_weights(None, [(Q, "IQ2_XS", 256)])
