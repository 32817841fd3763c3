"""How much each type of the KV cache costs, against the logits of transformers."""

from __future__ import annotations

from typing import Any

import pytest

import measure
import models
from commandr_gguf.model import Model
from commandr_gguf.session import Session

# Mean KL divergence in nats, half as much again as was measured for the four layers of v01, the worst of three shapes.
MAX_KL = {"f32": 1e-9, "f16": 6e-7, "bf16": 5e-5, "q8_0": 5e-4, "q4_0": 9e-2}
# Without flash attention queries and probabilities are rounded to 16 bits, too.
WITHOUT_FLASH_ATTENTION = 7e-7
SHAPE_FACTOR = {"cohere2": 3.0}  # has eight layers


def kl(shape: str, type_k: str, type_v: str, *, flash_attn: bool | None = None, n_ubatch: int = 512) -> float:
    golden = models.golden(shape)
    tokens = golden["tokens_a"]
    options: dict[str, Any] = {"n_ctx": 256, "n_threads": 1, "n_ubatch": n_ubatch, "type_k": type_k, "type_v": type_v}
    with Model(models.gguf(shape)) as model, Session(model, flash_attn=flash_attn, **options) as session:
        session.eval(tokens, n_outputs=len(tokens))
        return measure.kl_divergence(session.logits()[golden["positions_a"]], golden["logits_a"])


def bound(shape: str, *types: str) -> float:
    return max(MAX_KL[t] for t in types) * SHAPE_FACTOR.get(shape, 1.0)


@pytest.mark.parametrize("n_ubatch", [1, 512])
@pytest.mark.parametrize("kv_type", MAX_KL)
@pytest.mark.parametrize("shape", models.SHAPES)
def test_kv_type(shape: str, kv_type: str, n_ubatch: int) -> None:
    assert kl(shape, kv_type, kv_type, n_ubatch=n_ubatch) < bound(shape, kv_type)


@pytest.mark.parametrize("type_k", MAX_KL)
@pytest.mark.parametrize("shape", models.SHAPES)
def test_without_flash_attention(shape: str, type_k: str) -> None:
    limit = bound(shape, type_k, "f16") + WITHOUT_FLASH_ATTENTION * SHAPE_FACTOR.get(shape, 1.0)
    assert kl(shape, type_k, "f16", flash_attn=False) < limit


@pytest.mark.parametrize(("type_k", "type_v"), [("f32", "q8_0"), ("q8_0", "f16"), ("f16", "q4_0"), ("q4_0", "f32")])
@pytest.mark.parametrize("shape", ["gqa", "cohere2"])
def test_mixed_kv_types(shape: str, type_k: str, type_v: str) -> None:
    assert kl(shape, type_k, type_v) < bound(shape, type_k, type_v)
