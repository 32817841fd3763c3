"""The cache size that is computed from a header is the one that a session allocates."""

from __future__ import annotations

from typing import Any

import pytest

import models
from commandr_gguf import ArgumentError, CacheShape, GGUFFile, Model, Session

GIB = 1 << 30
V01 = CacheShape(n_ctx_train=131072, n_layer=40, n_head_kv=64, head_dim=128, n_swa=0, swa_period=0)
GQA = CacheShape(n_ctx_train=131072, n_layer=40, n_head_kv=8, head_dim=128, n_swa=0, swa_period=0)
R7B = CacheShape(n_ctx_train=131072, n_layer=32, n_head_kv=8, head_dim=128, n_swa=4096, swa_period=4)


@pytest.mark.parametrize("shape", models.SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 512},
        {"n_ctx": 1000, "type_k": "q8_0", "type_v": "q4_0"},
        {"n_ctx": 2048, "n_seq_max": 3, "n_ubatch": 64, "type_k": "f32", "type_v": "f32"},
    ],
)
def test_it_is_what_a_session_allocates(shape: str, options: dict[str, Any]) -> None:
    path = models.gguf(shape)
    with GGUFFile(path) as file:
        expected = CacheShape.from_gguf(file).cache_bytes(**options)
    with Model(path) as model, Session(model, **options) as session:
        allocated = sum(use.size for use in session.memory() if use.what == "kv")
    assert allocated == pytest.approx(expected, rel=0.01)


def test_published_shapes() -> None:
    assert V01.cache_bytes(131072) == 160 * GIB
    assert GQA.cache_bytes(131072) == 20 * GIB
    assert 4.3 * GIB < R7B.cache_bytes(131072) < 4.5 * GIB


def test_default_contexts() -> None:
    assert V01.default_n_ctx() == 4096
    assert GQA.default_n_ctx() == 13056
    assert GQA.default_n_ctx(type_k="q8_0", type_v="q8_0") > 20000
    assert R7B.default_n_ctx() == 32768
    assert CacheShape(2048, 40, 64, 128, 0, 0).default_n_ctx() == 2048


def test_wrong_context() -> None:
    with pytest.raises(ArgumentError, match="n_ctx must be 1 or more"):
        GQA.cache_bytes(0)
