"""Attention over more scores, and a cache of more elements, than 32 bits count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import long_models
import measure
import models
import shapes
from commandr_gguf import EvalItem, Model, Session
from reference import Reference

N_UBATCH = 512
N_HEAD = 64
N_TOKENS = 137 * N_UBATCH
ROUNDING = 3e-2  # of activations to 8 bits, which small differences turn; measured 6e-3. A wrong cell is far beyond it
assert N_TOKENS * N_UBATCH * N_HEAD > 1 << 31


@pytest.mark.parametrize("flash_attn", [pytest.param(False, marks=pytest.mark.large), True], ids=["scores", "flash"])
def test_more_than_2_31_scores(flash_attn: bool, tmp_path: Path) -> None:
    """Without flash attention all of them are in memory at once, 9 GB."""
    heads = {"hidden_size": N_HEAD * 8, "num_attention_heads": N_HEAD, "num_key_value_heads": 2}
    checkpoint = long_models.write_checkpoint(tmp_path / "checkpoint", "gqa", rope_theta=256.0, **heads)
    path = models.convert(checkpoint, tmp_path / "model.gguf", "F32")
    tokens = long_models.tokens(N_TOKENS, range(0, N_TOKENS, 997))
    at = np.arange(N_TOKENS - N_UBATCH, N_TOKENS, 73)
    expected = Reference(checkpoint).logits(tokens, at)
    options: dict[str, Any] = {"n_ctx": N_TOKENS, "n_ubatch": N_UBATCH, "n_outputs": N_UBATCH, "n_threads": 2}
    with Model(path) as model, Session(model, type_k="f32", type_v="f32", flash_attn=flash_attn, **options) as session:
        session.eval(tokens, n_outputs=N_UBATCH)
        logits = session.logits()[at - at[0]]
    assert measure.relative_error(logits, expected) < 1e-4


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_a_cache_of_more_than_2_31_elements(tmp_path: Path) -> None:
    """A sequence whose cells lie behind those of another one, in 4.3 GB of keys and as much of values."""
    n_embd = 512
    n_before = (1 << 31) // n_embd
    checkpoint = shapes.write_checkpoint(
        tmp_path / "checkpoint", "v01", n_layers=1, hidden_size=n_embd, num_attention_heads=8, num_key_value_heads=8
    )
    path = models.convert(checkpoint, tmp_path / "model.gguf", "Q8_0")
    rng = np.random.default_rng(3)
    before, behind = rng.integers(8, 600, n_before), np.r_[5, rng.integers(8, 600, 999)]
    with Model(path) as model:
        with Session(model, n_ctx=1024, n_threads=2) as session:
            session.eval(behind, n_outputs=500)
            expected = session.logits()
        with Session(model, n_ctx=n_before + 1024, n_seq_max=2, n_threads=2) as session:
            session.eval(before, seq_id=0, n_outputs=0)
            session.eval(behind, seq_id=1, n_outputs=500)
            assert measure.relative_error(session.logits(), expected) < ROUNDING
            tokens = behind.tolist()
            session.eval_batch([EvalItem([*tokens[:-1], 300], 1, 1)])  # a single token
            session.eval_batch([EvalItem(tokens, 1, 1)])
            assert measure.relative_error(session.logits(), expected[-1:]) < ROUNDING
