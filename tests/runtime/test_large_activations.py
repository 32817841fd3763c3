"""Values that overflow 16-bit floats when attention adds them up give the right logits all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import long_models
import loud
import measure
import models
from commandr_gguf.model import Model
from commandr_gguf.session import Session
from reference import Reference

QUERIES_AND_KEYS = "q_proj.weight", "k_proj.weight"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return loud.write(tmp_path_factory.mktemp("loud"))


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize(("kv_type", "max_kl"), [("f16", 1e-5), ("bf16", 1e-4), ("q8_0", 1e-3)])
def test_long_sums_of_large_values(files: tuple[Path, Path], kv_type: str, max_kl: float, flash_attn: bool) -> None:
    checkpoint, file = files
    tokens = loud.TOKENS
    expected = Reference(checkpoint).logits(tokens)[-5:]
    options: dict[str, Any] = {
        "n_ctx": 1024,
        "n_threads": 1,
        "type_k": kv_type,
        "type_v": kv_type if flash_attn else "f16",
    }
    with Model(file) as model, Session(model, flash_attn=flash_attn, **options) as session:
        session.eval(tokens[:-2], n_outputs=3)
        rows = [session.logits()]
        for n in (len(tokens) - 1, len(tokens)):
            session.eval(tokens[:n])
            rows.append(session.logits())
        logits = np.concatenate(rows)
    assert np.isfinite(logits).all()
    assert measure.kl_divergence(logits, expected) < max_kl


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_scores_beyond_the_largest_16_bit_float(kv_type: str, flash_attn: bool, tmp_path: Path) -> None:
    checkpoint = long_models.write_checkpoint(tmp_path / "checkpoint", "cohere2", pull=50000)
    tokens = np.r_[5, long_models.MARKS, long_models.MARKS[::3]].astype(np.int32)
    reference = Reference(checkpoint)
    expected = reference.logits(tokens)
    last = "model.layers.3.self_attn."
    q, k = (reference.inputs[last + name] @ reference.weights[last + name].T for name in QUERIES_AND_KEYS)
    scores = q[1:, : k.shape[1]] @ k[1:].T
    assert scores.max(1).min() > 65504 > np.abs(k).max()
    path = models.convert(checkpoint, tmp_path / "model.gguf", "F32")
    options: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "type_k": kv_type, "type_v": kv_type}
    with Model(path) as model, Session(model, flash_attn=flash_attn, **options) as session:
        session.eval(tokens, n_outputs=len(tokens))
        logits = session.logits()
    assert measure.kl_divergence(logits, expected) < 1e-4
