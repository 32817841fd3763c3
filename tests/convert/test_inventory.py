from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shapes
from convert.checkpoint import Checkpoint
from convert.errors import CheckpointError, ConvertError, UnsupportedError
from convert.hparams import read_hparams
from convert.inventory import Inventory, take_inventory

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def inventory(folder: Path, shape: str, **options: Any) -> Inventory:
    checkpoint = Checkpoint(shapes.write_checkpoint(folder, shape, **options))
    return take_inventory(checkpoint, read_hparams(checkpoint.config))


@pytest.mark.parametrize(
    ("shape", "in_layer"),
    [
        ("gqa", ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]),
        ("r_plus", ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]),
        ("cohere2", ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]),
    ],
)
def test_names_and_order(tmp_path: Path, shape: str, in_layer: list[str]) -> None:
    in_layer = in_layer + (["attn_q_norm", "attn_k_norm"] if shape == "r_plus" else [])
    found = inventory(tmp_path, shape, n_layers=2)
    layers = [f"blk.{i}.{name}.weight" for i in range(2) for name in in_layer]
    assert [name for name, _ in found.tensors] == ["token_embd.weight", *layers, "output_norm.weight"]
    assert found.notes == []


def some(*shape: int) -> Any:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("shape", "replace", "message"),
    [
        ("gqa", {"model.norm.weight": None}, "tensor model.norm.weight is missing"),
        ("gqa", {"model.layers.0.mlp.up_proj.weight": None}, "model.layers.0.mlp.up_proj.weight is missing"),
        (
            "gqa",
            {"model.layers.0.self_attn.k_proj.weight": some(256, 256)},
            r"k_proj.weight has the shape \[256, 256\], config.json calls for \[64, 256\]",
        ),
        ("gqa", {"model.norm.weight": some(256, 1)}, r"model.norm.weight has the shape \[256, 1\]"),
        ("gqa", {"model.layers.1.mlp.up_proj.weight": some(512, 256)}, "layers.1.mlp.up_proj.weight has no place"),
        ("gqa", {"adapter.weight": some(2)}, "tensor adapter.weight has no place"),
        (
            "gqa",
            {"model.layers.0.self_attn.q_proj.bias": some(256)},
            r"bias model.layers.0.self_attn.q_proj.bias is not zero",
        ),
        ("gqa", {HEAD: some(768, 256)}, "lm_head.weight differs from model.embed_tokens.weight"),
        ("gqa", {HEAD: some(768, 128)}, "lm_head.weight differs from model.embed_tokens.weight"),
        ("r_plus", {"model.layers.0.self_attn.k_norm.weight": None}, "self_attn.k_norm.weight is missing"),
        ("cohere2", {"model.layers.0.self_attn.q_norm.weight": some(4, 64)}, "q_norm.weight has no place in a cohere2"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, shape: str, replace: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        inventory(tmp_path, shape, n_layers=1, replace=replace)


def test_notes_on_what_is_left_out(tmp_path: Path) -> None:
    plain = shapes.write_checkpoint(tmp_path / "plain", "gqa", n_layers=1)
    embedding = dict(shapes.tensors(shapes.config_json("gqa", num_hidden_layers=1), 0))[EMBEDDING]
    replace = {
        HEAD: embedding,
        "model.layers.0.self_attn.q_proj.bias": np.zeros(256, np.float32),
        "model.norm.bias": np.zeros((), np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": some(16),
    }
    found = inventory(tmp_path / "more", "gqa", n_layers=1, replace=replace)
    assert found.notes == [f"left out {HEAD}, which equals {EMBEDDING}", "left out 2 biases, all zero"]
    checkpoint = Checkpoint(plain)
    expected = take_inventory(checkpoint, read_hparams(checkpoint.config))
    assert [name for name, _ in found.tensors] == [name for name, _ in expected.tensors]


def test_config_and_norms_of_heads(tmp_path: Path) -> None:
    norms = ["model.layers.0.self_attn.q_norm.weight", "model.layers.0.self_attn.k_norm.weight"]
    with pytest.raises(CheckpointError, match="q_norm.weight is missing"):
        inventory(tmp_path / "a", "r_plus", n_layers=1, replace=dict.fromkeys(norms))
    with pytest.raises(CheckpointError, match="contradicts use_qk_norm = false"):
        inventory(
            tmp_path / "b", "gqa", n_layers=1, use_qk_norm=False, replace={norms[0]: some(8, 32), norms[1]: some(2, 32)}
        )
    # The tensors decide when the config says nothing.
    found = inventory(tmp_path / "c", "gqa", n_layers=1, replace={norms[0]: some(8, 32), norms[1]: some(2, 32)})
    assert "blk.0.attn_q_norm.weight" in dict(found.tensors)


def test_norm_of_one_kind_of_heads(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="k_norm.weight is missing"):
        inventory(tmp_path, "gqa", n_layers=1, replace={"model.layers.0.self_attn.q_norm.weight": some(8, 32)})


def test_unsupported_type_of_a_surplus_tensor_is_named(tmp_path: Path) -> None:
    folder = shapes.write_checkpoint(tmp_path, "gqa", n_layers=1)
    shapes.write_safetensors(folder / "model.safetensors", {"buffer": ("I64", (1,), bytes(8))})
    with pytest.raises(UnsupportedError, match="tensor buffer is I64"):
        Checkpoint(folder)
