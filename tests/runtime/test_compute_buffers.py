"""Compute buffers are allocated when a session begins, and no later graph needs larger ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import shapes
from commandr_gguf import EvalItem, Model, Session, allowed_mask

N_VOCAB = 8200
RNG = np.random.default_rng(9)
TOKENS = RNG.integers(8, 600, 6100).tolist()
MASKS = [None, *(allowed_mask(N_VOCAB, RNG.choice(8192, n, replace=False).tolist()) for n in (12, 100))]


@pytest.fixture(scope="module", params=["v01", "cohere2"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose attention takes up to 64 or 32 tokens apart from the others, and whose head can be cut."""
    folder = tmp_path_factory.mktemp(request.param)
    n_layers = shapes.SHAPES[request.param].get("sliding_window_pattern", 2)
    checkpoint = shapes.write_checkpoint(folder / "checkpoint", request.param, n_layers=n_layers, vocab_size=N_VOCAB)
    return models.convert(checkpoint, folder / "model.gguf", "Q4_K_M")


def compute_bytes(session: Session) -> list[int]:
    return [use.size for use in session.memory() if use.what == "compute"]


@pytest.mark.parametrize(
    ("n_held", "n_ubatch", "flash_attn"),
    [(1000, 16, False), (1000, 33, None), (1000, 64, False), (6000, 64, None), (6000, 100, None)],
)
def test_they_do_not_grow_with_the_context(path: Path, n_held: int, n_ubatch: int, flash_attn: bool | None) -> None:
    options: dict[str, Any] = {"n_ctx": n_held + 100, "n_ubatch": n_ubatch, "n_threads": 2}
    with Model(path) as model, Session(model, flash_attn=flash_attn, **options) as session:
        before = compute_bytes(session)
        session.eval(TOKENS[:n_held], n_outputs=0, logits=False)
        for n_new in (1, 2, 16, 31, 32, 64, 100):
            for mask in MASKS:
                for n_wanted in {1, n_new}:
                    session.seq_rm(0, n_held)
                    item = EvalItem(TOKENS[: n_held + n_new], 0, n_wanted, mask)
                    session.eval_batch([item], hidden=n_wanted == 1)
                    assert compute_bytes(session) == before, (n_new, n_wanted)
