"""Checkpoints whose weights are quantized: one sentence with what to convert instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import shapes
from convert.checkpoint import Checkpoint
from convert.errors import UnsupportedError


def write(folder: Path, *, card: str | None = None, **config: Any) -> Path:
    """A checkpoint as the tools leave it: packed weights are bytes, with tables beside them."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shapes.config_json("gqa", **config)))
    packed = {"model.layers.0.mlp.down_proj.weight": ("U8", (64, 1), bytes(64))}
    shapes.write_safetensors(folder / "model.safetensors", packed)
    if card is not None:
        (folder / "README.md").write_text(card)
    return folder


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes, 4 bits"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes, 8 bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "GPTQ, 4 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, "AWQ, 4 bits"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "FP8"),
        ({"quant_method": "fbgemm_fp8"}, "FP8"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "compressed-tensors"),
        ({"quant_method": "of-tomorrow"}, "of-tomorrow"),
        ({"bits": 4}, "quantization_config is there, without a quant_method"),
        ("gptq", "quantization_config is there, without a quant_method"),
    ],
)
def test_each_kind_is_named(tmp_path: Path, quantization: object, words: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"config.json: the weights are quantized already \({words}\): convert"):
        Checkpoint(write(tmp_path, quantization_config=quantization))


def test_the_older_key_of_compressed_tensors_is_seen(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="compressed-tensors"):
        Checkpoint(write(tmp_path, compression_config={"quant_method": "compressed-tensors"}))


@pytest.mark.parametrize(
    ("card", "config", "origin"),
    [
        ("---\nbase_model: CohereLabs/c4ai-command-r-v01\n---\n", {}, "CohereLabs/c4ai-command-r-v01"),
        ("---\nbase_model:\n- org/tuned\n---\n", {"_name_or_path": "org/other"}, "org/tuned"),
        (None, {"_name_or_path": "org/other"}, "org/other"),
        ("---\nbase_model: [3, {}]\n---\n", {"_name_or_path": "/home/me/model"}, None),
        ("---\n[not a card\n---\n", {}, None),
    ],
)
def test_the_original_is_named_where_it_is_known(
    tmp_path: Path, card: str | None, config: dict[str, Any], origin: str | None
) -> None:
    quantized = {"quant_method": "awq", "bits": 4}
    with pytest.raises(UnsupportedError) as caught:
        Checkpoint(write(tmp_path, card=card, quantization_config=quantized, **config))
    hint = f"were made from, which seems to be {origin};" if origin else "were made from;"
    assert hint in str(caught.value)
