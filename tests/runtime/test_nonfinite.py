"""Numbers that are not finite come out as such: a wrong but plausible text would be worse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import shapes
from commandr_gguf import Model, Session

TOKENS = np.r_[5, np.random.default_rng(5).integers(8, 600, 99)].astype(np.int32)


@pytest.fixture(scope="module", params=["k_proj", "v_proj"])
def loud(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys or values beyond 65504, the largest half float."""
    folder = tmp_path_factory.mktemp(request.param)
    replace = {
        name: values * np.float32(1e6)
        for name, values in shapes.tensors(shapes.SHAPES["gqa"], 0)
        if name.split(".")[-2] == request.param
    }
    checkpoint = shapes.write_checkpoint(folder / "checkpoint", "gqa", dtype="F32", replace=replace)
    return models.convert(checkpoint, folder / "loud.gguf", "F32")


@pytest.mark.parametrize("n_ubatch", [1, 40, 512])
def test_an_overflowing_cache_shows(loud: Path, n_ubatch: int) -> None:
    options: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_ubatch": n_ubatch}
    with Model(loud) as model, Session(model, **options) as session:
        session.eval(TOKENS)
        assert not np.isfinite(session.logits()).all()


def test_it_stays_with_its_own_sequence(tmp_path: Path) -> None:
    """An embedding row of one token makes infinite values; sequences without that token do not see them."""
    replace = {
        name: values * np.where(np.arange(len(values)) == 300, np.float32(1e30), np.float32(1))[:, None]
        for name, values in shapes.tensors(shapes.SHAPES["gqa"], 0)
        if name.endswith("embed_tokens.weight")
    }
    checkpoint = shapes.write_checkpoint(tmp_path / "checkpoint", "gqa", dtype="F32", replace=replace)
    path = models.convert(checkpoint, tmp_path / "model.gguf", "F32")
    clean = TOKENS[TOKENS != 300][:40]
    options: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_seq_max": 2}
    with Model(path) as model, Session(model, **options) as session:
        session.eval(clean, seq_id=1)
        before = session.logits()
        session.eval(np.append(clean, 300).astype(np.int32), seq_id=0)
        session.eval(np.append(clean, 8).astype(np.int32), seq_id=1)
        session.eval(clean, seq_id=1)
        assert np.allclose(session.logits(), before, atol=1e-2)
