"""Models whose layers are not, or not all, on this machine's CPU: on cards, or on workers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

import bounds
import measure
import models
from commandr_gguf import Model, Session

LIMIT = 1e-4
"""Mean KL divergence of unrounded weights: attention or products are ggml's there, with values in 16 bits."""


def check_logits(shape: str, file_type: str, devices: Collection[str], **placing: Any) -> None:
    """Logits are those of the numpy model, in one batch and token by token, with weights on all of these devices."""
    tokens = models.golden(shape)["tokens_a"]
    expected = models.expected_logits(shape, tokens, file_type)
    limit = LIMIT + (0 if file_type == "F32" else bounds.from_own_weights(shape, file_type))
    with Model(models.gguf(shape, file_type), **placing) as model, Session(model, n_ctx=256) as session:
        assert {use.device for use in model.memory() if use.what == "weights"} >= set(devices)
        session.eval(tokens, n_outputs=len(tokens))
        assert measure.kl_divergence(session.logits(), expected) < limit
        rows = []
        for n in range(len(tokens) - 16, len(tokens)):
            session.eval(tokens[: n + 1])
            rows.append(session.logits()[-1].copy())
        assert measure.kl_divergence(np.array(rows), expected[-16:]) < 2 * limit
