"""How much each type of the KV cache costs, against the logits of transformers."""

from __future__ import annotations

import measure
import models
import pytest

from commandr_gguf.model import Model
from commandr_gguf.session import Session

# Mean KL divergence in nats, about twice what was measured on the worst shape.
MAX_KL = {"f16": 1e-5, "bf16": 1e-4, "q8_0": 2e-4, "q4_0": 3e-2}


def kl(shape: str, type_k: str, type_v: str, *, flash_attn: bool | None = None, n_ubatch: int = 512) -> float:
    golden = models.golden(shape)
    tokens = golden["tokens_a"]
    with (
        Model(models.gguf(shape)) as model,
        Session(
            model,
            n_ctx=256,
            n_threads=2,
            n_ubatch=n_ubatch,
            type_k=type_k,
            type_v=type_v,
            flash_attn=flash_attn,
        ) as session,
    ):
        session.eval(tokens, n_outputs=len(tokens))
        return measure.kl_divergence(session.logits()[golden["positions_a"]], golden["logits_a"])


@pytest.mark.parametrize("n_ubatch", [1, 512])
@pytest.mark.parametrize("kv_type", MAX_KL)
@pytest.mark.parametrize("shape", models.SHAPES)
def test_kv_type(shape: str, kv_type: str, n_ubatch: int) -> None:
    assert kl(shape, kv_type, kv_type, n_ubatch=n_ubatch) < MAX_KL[kv_type]


@pytest.mark.parametrize("type_k", ["f16", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("shape", models.SHAPES)
def test_without_flash_attention(shape: str, type_k: str) -> None:
    assert kl(shape, type_k, "f16", flash_attn=False) < MAX_KL[type_k]


@pytest.mark.parametrize(("type_k", "type_v"), [("f32", "q8_0"), ("q8_0", "f16"), ("f16", "q4_0"), ("q4_0", "f32")])
@pytest.mark.parametrize("shape", ["gqa", "cohere2"])
def test_mixed_kv_types(shape: str, type_k: str, type_v: str) -> None:
    assert kl(shape, type_k, type_v) < max(MAX_KL.get(t, 0) for t in (type_k, type_v))
