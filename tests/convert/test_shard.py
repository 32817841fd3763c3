from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

import shapes
from convert.checkpoint import Checkpoint
from convert.errors import CheckpointError, ConvertError, UnsupportedError
from convert.rows import FileRows
from convert.shard import read_header

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


# What JSON is made of, and what it is not.
BYTES = b'0123456789-[]{}":,.eFB \\\x00\xff'


def write(path: Path, header: object, data: bytes = bytes(24), n_header: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if n_header is None else n_header).to_bytes(8, "little") + text + data)
    return path


def test_offsets_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    shapes.write_safetensors(path, {"a": ("F32", (2,), b"AAAAAAAA"), "b": ("BF16", (2, 2), b"BBBBBBBB")})
    tensors = read_header(path)
    assert [(t.name, t.dtype, t.shape, t.n_rows, t.n_bytes) for t in tensors.values()] == [
        ("a", "F32", (2,), 1, 8),
        ("b", "BF16", (2, 2), 2, 8),
    ]
    data = path.read_bytes()
    assert [data[t.offset : t.offset + t.n_bytes] for t in tensors.values()] == [b"AAAAAAAA", b"BBBBBBBB"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[1, 2]", "not a JSON object"),
        (b"{]", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ({"w": ENTRY | {"shape": [2**62, 0], "data_offsets": [0, 0]}}, "tensor w of shape .* has no elements"),
        ({"w": 5}, "entry of tensor w is malformed"),
        ({"w": ENTRY | {"shape": [2, -3]}}, "entry of tensor w is malformed"),
        ({"w": ENTRY | {"shape": "2,3"}}, "entry of tensor w is malformed"),
        ({"w": ENTRY | {"data_offsets": [0]}}, "entry of tensor w is malformed"),
        ({"w": ENTRY | {"data_offsets": [0.0, 24.0]}}, "entry of tensor w is malformed"),
        ({"w": ENTRY | {"dtype": None}}, "entry of tensor w is malformed"),
        ({"w": ENTRY | {"shape": [2, 4]}}, r"tensor w of shape \[2, 4\] takes 32 bytes, but its offsets span 24"),
        ({"w": ENTRY | {"data_offsets": [8, 32]}}, "ends inside tensor w"),
        ({"w": ENTRY, "v": ENTRY}, "not a valid safetensors file"),  # two tensors in one place
    ],
)
def test_damaged_header(tmp_path: Path, header: Any, message: str) -> None:
    path = write(tmp_path / "x.safetensors", header)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_file_that_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    shapes.write_safetensors(path, {"a": ("F32", (2,), bytes(8)), "b": ("F32", (4, 2), bytes(32))})
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=f"ends inside tensor b: the file has {len(data) - 1} bytes"):
        read_header(path)
    for n in (0, 7, 8, 20):
        path.write_bytes(data[:n])
        with pytest.raises(CheckpointError, match="header does not fit"):
            read_header(path)


def test_bytes_after_the_last_tensor(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"w": ENTRY}, bytes(25))
    with pytest.raises(CheckpointError, match="not a valid safetensors file"):
        read_header(path)


def test_header_length_beyond_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {"w": ENTRY}, n_header=2**63)
    with pytest.raises(CheckpointError, match="header does not fit"):
        read_header(path)


@hypothesis.given(st.data())
def test_no_header_makes_the_reader_fail_in_another_way(data: st.DataObject) -> None:
    text = bytearray(json.dumps({"w": ENTRY, "v": ENTRY | {"data_offsets": [24, 48]}}).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(
            st.sampled_from(b'0123456789-[]{}":,.eFB \\\x00\xff')
        )
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "x.safetensors", bytes(text), bytes(48))
        try:
            tensors = read_header(path)
        except ConvertError as error:
            assert str(path) in str(error)  # noqa: PT017  (most headers are refused, some are not)
        else:
            assert all(tensor.offset + tensor.n_bytes <= path.stat().st_size for tensor in tensors.values())


def test_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        read_header(path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8", "F64", "U8"])
def test_types_that_are_no_weights(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "x.safetensors", {"w": ENTRY | {"dtype": dtype}})
    with pytest.raises(UnsupportedError, match=f"tensor w is {dtype}, only BF16, F16, F32"):
        read_header(path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return shapes.write_checkpoint(tmp_path / "model", "gqa", n_layers=1, n_shards=2)


def index(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "model.safetensors.index.json"
    return path, json.loads(path.read_text())


def test_shards_and_single_file_hold_the_same(sharded: Path, tmp_path: Path) -> None:
    single = shapes.write_checkpoint(tmp_path / "single", "gqa", n_layers=1)
    a, b = Checkpoint(sharded).tensors, Checkpoint(single).tensors
    assert a.keys() == b.keys()
    assert len({tensor.path for tensor in a.values()}) == 2
    with FileRows() as rows:
        for name, tensor in a.items():
            assert (rows.read(tensor, 0, tensor.n_rows) == rows.read(b[name], 0, tensor.n_rows)).all()


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors is missing"):
        Checkpoint(sharded)


def test_index_and_shards_disagree(sharded: Path) -> None:
    path, content = index(sharded)
    weights = content["weight_map"]
    first = weights.pop("model.embed_tokens.weight")
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"holds tensor model.embed_tokens.weight, which .* does not place there"):
        Checkpoint(sharded)
    weights |= {"model.embed_tokens.weight": first, "extra.weight": first}
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"lacks tensor extra.weight"):
        Checkpoint(sharded)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", ""])
def test_index_that_leads_out_of_the_folder(sharded: Path, name: str) -> None:
    path, content = index(sharded)
    content["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is not the name of a file in the folder"):
        Checkpoint(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 5}])
def test_damaged_index(sharded: Path, weight_map: Any) -> None:
    path, content = index(sharded)
    path.write_text(json.dumps(content | {"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="weight_map"):
        Checkpoint(sharded)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "config.json is missing"),
        ({"config.json": "{"}, "config.json is not valid JSON"),
        ({"config.json": "[]"}, "config.json holds no JSON object"),
        ({"config.json": "{}"}, "holds no model.safetensors"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "only safetensors files are read"),
        ({"config.json": "{}", "model-00001-of-00002.safetensors": ""}, "only other safetensors files"),
    ],
)
def test_folder_that_is_no_checkpoint(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConvertError, match=message):
        Checkpoint(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint(tmp_path / "nothing")
