"""Architecture keys that are missing, make no sense, or ask for what is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from commandr_gguf import CommandRError, FormatError, GGUFFile, HParams, UnsupportedError

KEYS: dict[str, Any] = {
    "block_count": 2,
    "context_length": 1024,
    "embedding_length": 256,
    "feed_forward_length": 512,
    "attention.head_count": 4,
    "attention.layer_norm_epsilon": 1e-5,
    "logit_scale": 0.0625,
}


def read(path: Path, keys: dict[str, Any]) -> HParams:
    writer = gguf.GGUFWriter(path, "command-r")
    for key, value in keys.items():
        adders: dict[type, Any] = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        adders[type(value)](f"command-r.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(path) as file:
        return HParams.from_gguf(file)


def test_keys_are_read_before_tensors(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"the tensor token_embd\.weight is missing"):
        read(tmp_path / "x.gguf", KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(FormatError, match=rf"the key command-r\.{key} is missing"):
        read(tmp_path / "x.gguf", {k: v for k, v in KEYS.items() if k != key})


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("block_count", 0, FormatError),
        ("block_count", 5000, FormatError),
        ("attention.head_count_kv", 3, FormatError),
        ("attention.layer_norm_epsilon", -1.0, FormatError),
        ("attention.layer_norm_epsilon", float("nan"), FormatError),
        ("logit_scale", float("inf"), FormatError),
        ("rope.freq_base", 0.0, FormatError),
        ("rope.freq_base", float("inf"), FormatError),
        ("rope.dimension_count", 65, FormatError),
        ("attention.value_length", 32, UnsupportedError),
        ("rope.scaling.type", "linear", UnsupportedError),
        # llama.cpp takes a factor without a type for a linear scaling
        ("rope.scaling.factor", 8.0, UnsupportedError),
        ("rope.scale_linear", 4.0, UnsupportedError),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, key: str, value: object, error: type[CommandRError]) -> None:
    with pytest.raises(error, match=key.split(".", maxsplit=1)[-1]):
        read(tmp_path / "x.gguf", KEYS | {key: value})


@pytest.mark.parametrize(("key", "value"), [("rope.scaling.type", "none"), ("rope.scaling.factor", 1.0)])
def test_no_scaling_may_be_stated(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(FormatError, match=r"the tensor token_embd\.weight is missing"):
        read(tmp_path / "x.gguf", KEYS | {key: value})
