"""How much each file type costs, against the logits of transformers, and that repacking does not add to it."""

from __future__ import annotations

import measure
import models
import pytest

from commandr_gguf.model import Model
from commandr_gguf.session import Session

# Mean KL divergence in nats, about twice what was measured on the worst shape.
MAX_KL = {
    "F16": 1e-5,
    "BF16": 3e-4,
    "Q8_0": 1e-3,
    "Q6_K": 3e-3,
    "Q5_K_M": 1e-2,
    "Q5_K_S": 1e-2,
    "Q4_K": 4e-2,
    "Q4_K_S": 5e-2,
    "Q4_0": 8e-2,
    "IQ4_XS": 6e-2,
    "Q3_K_M": 0.2,
    "Q2_K": 0.6,
}
EVERY_SHAPE = ("F16", "BF16", "Q8_0", "Q4_K")


def kl(shape: str, file_type: str, *, repack: bool, n_ubatch: int = 512) -> float:
    golden = models.golden(shape)
    tokens = golden["tokens_a"]
    options = {"n_ctx": 256, "n_threads": 2, "n_ubatch": n_ubatch, "type_k": "f32", "type_v": "f32"}
    with Model(models.gguf(shape, file_type), repack=repack) as model, Session(model, **options) as session:
        session.eval(tokens, n_outputs=len(tokens))
        return measure.kl_divergence(session.logits()[golden["positions_a"]], golden["logits_a"])


@pytest.mark.parametrize("repack", [False, True])
@pytest.mark.parametrize(
    ("shape", "file_type"),
    [(shape, file_type) for file_type in MAX_KL for shape in models.SHAPES if shape == "gqa" or file_type in EVERY_SHAPE],
)
def test_file_type(shape: str, file_type: str, repack: bool) -> None:
    assert kl(shape, file_type, repack=repack) < MAX_KL[file_type]


@pytest.mark.parametrize("repack", [False, True])
@pytest.mark.parametrize("file_type", MAX_KL)
def test_one_token_at_a_time(file_type: str, repack: bool) -> None:
    assert kl("gqa", file_type, repack=repack, n_ubatch=1) < MAX_KL[file_type]
