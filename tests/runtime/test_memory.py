"""The cache size that is computed from a header is the one that a session's cache grows to."""

from __future__ import annotations

from typing import Any

import pytest

import models
from commandr_gguf import ArgumentError, GGUFFile, HParams, Model, Session, kv_cache_bytes

GIB = 1 << 30


def hparams(**values: Any) -> HParams:
    common: dict[str, Any] = {
        "architecture": "command-r",
        "n_vocab": 256000,
        "n_ctx_train": 131072,
        "n_embd": 8192,
        "n_ff": 22528,
    }
    common |= {"n_layer": 40, "n_head": 64, "n_head_kv": 64, "head_dim": 128, "n_rot": 128, "n_swa": 0, "swa_period": 0}
    common |= {"rope_freq_base": 8e6, "norm_eps": 1e-5, "logit_scale": 0.0625, "has_qk_norm": False}
    return HParams(**(common | values))


V01 = hparams()
GQA = hparams(n_head_kv=8)
R7B = hparams(architecture="cohere2", n_layer=32, n_head=32, n_head_kv=8, n_swa=4096, swa_period=4)


@pytest.mark.parametrize("shape", models.SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 512},
        {"n_ctx": 1000, "type_k": "q8_0", "type_v": "q4_0"},
        {"n_ctx": 2048, "n_seq_max": 3, "n_ubatch": 64, "type_k": "f32", "type_v": "f32"},
    ],
)
def test_it_is_what_a_session_may_allocate(shape: str, options: dict[str, Any]) -> None:
    path = models.gguf(shape)
    with GGUFFile(path) as file:
        expected = kv_cache_bytes(HParams.from_gguf(file), **options)
    with Model(path) as model, Session(model, **options) as session:
        allocated = sum(use.size for use in session.memory() if use.what.startswith("kv"))
    assert allocated == pytest.approx(expected, rel=0.01)


def test_published_shapes() -> None:
    assert kv_cache_bytes(V01, 131072) == 160 * GIB
    assert kv_cache_bytes(GQA, 131072) == 20 * GIB
    assert 4.3 * GIB < kv_cache_bytes(R7B, 131072) < 4.5 * GIB


def test_wrong_context() -> None:
    with pytest.raises(ArgumentError, match="n_ctx must be 1 or more"):
        kv_cache_bytes(GQA, 0)
