"""Products of quantized weights with many columns: our kernel, where the processor has it, against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import measure
import models
import shapes
from commandr_gguf import Model, Session
from reference import Reference, read_gguf

TOKENS = np.r_[5, np.random.default_rng(3).integers(8, 600, 150)].astype(np.int32)
# Rounding activations to 8 bits, as ggml does it, measures 1.5e-3 to 7e-3 nats over these; a wrong scale or a lost row
# is beyond 0.1.
MAX_KL = 2e-2


@pytest.mark.parametrize(
    "config",
    [
        {},
        # rows in no whole group of 64: 3 KV heads of 16 and 5 x 16 rows of queries; columns of 3 and 5 super-blocks
        {"hidden_size": 768, "intermediate_size": 1280, "num_attention_heads": 6, "num_key_value_heads": 3},
    ],
)
def test_every_number_of_columns_and_threads(config: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = shapes.write_checkpoint(tmp_path / "checkpoint", "gqa", n_layers=2, **config)
    path = models.convert(checkpoint, tmp_path / "model.gguf", "Q6_K")
    expected = Reference(checkpoint, weights=read_gguf(path)).logits(TOKENS)
    with Model(path) as model:
        for n_ubatch, n_threads in (1, 2), (15, 1), (16, 1), (17, 3), (64, 2), (151, 1), (151, 2), (151, 5):
            options: dict[str, Any] = {"n_ctx": 256, "type_k": "f32", "type_v": "f32"}
            with Session(model, n_ubatch=n_ubatch, n_outputs=n_ubatch, n_threads=n_threads, **options) as session:
                session.eval(TOKENS, n_outputs=len(TOKENS))
                kl = measure.kl_divergence(session.logits(), expected)
            assert kl < MAX_KL, f"{n_ubatch} columns, {n_threads} threads: {kl:.1e}"


def test_columns_of_zeros_and_large_values(tmp_path: Path) -> None:
    """Norm weights of 0 make whole columns 0, and large ones must not overflow the bytes."""
    config = shapes.SHAPES["gqa"]
    norms = {
        name: values * (0.0 if "layers.0" in name else 20.0)
        for name, values in shapes.tensors(config, 0)
        if name.endswith("input_layernorm.weight") and ("layers.0" in name or "layers.1" in name)
    }
    checkpoint = shapes.write_checkpoint(tmp_path / "checkpoint", "gqa", dtype="F32", replace=norms)
    path = models.convert(checkpoint, tmp_path / "model.gguf", "Q6_K")
    expected = Reference(checkpoint, weights=read_gguf(path)).logits(TOKENS)
    with Model(path) as model, Session(model, n_ctx=256, type_k="f32", type_v="f32", n_outputs=151) as session:
        session.eval(TOKENS, n_outputs=len(TOKENS))
        assert measure.kl_divergence(session.logits(), expected) < 5 * MAX_KL


def test_batches_of_a_bfloat16_file_of_any_size_give_much_the_same() -> None:
    """Ours compute many columns and ggml's few; both round columns to bfloat16, where the order of sums shows at times.

    Columns in float32 would be 0.1 standard deviations away.
    """
    logits = {}
    with Model(models.gguf("gqa", "BF16")) as model:
        for n_ubatch in (8, 31, 32, 100, 151):
            options: dict[str, Any] = {"n_ctx": 256, "type_k": "f32", "type_v": "f32", "n_threads": 2}
            with Session(model, n_ubatch=n_ubatch, n_outputs=n_ubatch, **options) as session:
                session.eval(TOKENS, n_outputs=len(TOKENS))
                logits[n_ubatch] = session.logits()
    for n_ubatch, found in logits.items():
        assert np.abs(found - logits[8]).max() < 0.03 * logits[8].std(), f"{n_ubatch} columns"
