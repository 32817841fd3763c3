"""What each file type computes, against the numpy model with the very weights of the file and against transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import bounds
import measure
import models
from commandr_gguf.model import Model
from commandr_gguf.session import Session


def logits(shape: str, file_type: str, *, repack: bool, n_ubatch: int = 512) -> npt.NDArray[np.float32]:
    """For the second golden sequence, from a cache in F32."""
    tokens = models.golden(shape)["tokens_b"]
    options: dict[str, Any] = {"n_ctx": 128, "n_threads": 1, "n_ubatch": n_ubatch, "type_k": "f32", "type_v": "f32"}
    with Model(models.gguf(shape, file_type), repack=repack) as model, Session(model, **options) as session:
        session.eval(tokens, n_outputs=len(tokens))
        return session.logits()


@pytest.mark.parametrize("repack", [False, True])
@pytest.mark.parametrize("file_type", bounds.FILE_TYPES)
@pytest.mark.parametrize("shape", models.SHAPES)
def test_file_type(shape: str, file_type: str, repack: bool) -> None:
    golden = models.golden(shape)
    rows = logits(shape, file_type, repack=repack)
    expected = models.expected_logits(shape, golden["tokens_b"], file_type)
    assert measure.kl_divergence(rows, expected) < bounds.from_own_weights(shape, file_type)
    error = measure.kl_divergence(rows[golden["positions_b"]], golden["logits_b"])
    assert error < bounds.from_transformers(shape, file_type)


@pytest.mark.parametrize("repack", [False, True])
@pytest.mark.parametrize("file_type", bounds.FILE_TYPES)
def test_one_token_at_a_time(file_type: str, repack: bool) -> None:
    rows = logits("gqa", file_type, repack=repack, n_ubatch=1)
    expected = models.expected_logits("gqa", models.golden("gqa")["tokens_b"], file_type)
    assert measure.kl_divergence(rows, expected) < bounds.from_own_weights("gqa", file_type)
