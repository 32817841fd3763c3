"""Two small models that differ in one matrix, and a text, on which they are compared; see tests/golden/write_kl.py."""

from __future__ import annotations

import functools
from pathlib import Path

import corpus
import models
import shapes

SHAPE = "gqa"
CHANGED = "model.layers.1.mlp.down_proj.weight"
N_CTX = 64


def text() -> str:
    """What is evaluated."""
    return "\n".join(corpus.LANGUAGES.values()) + "\n"


def base_model() -> Path:
    """A model in F32."""
    return models.gguf(SHAPE)


@functools.cache
def other_model() -> Path:
    """The same but for one matrix, which is changed by a tenth."""
    values = dict(shapes.tensors(shapes.SHAPES[SHAPE], 0))[CHANGED]
    changed = values + values.std() / 10 * shapes.normal(1, CHANGED, values.shape)
    folder = models.gguf(SHAPE).parent
    checkpoint = shapes.write_checkpoint(folder / "changed", SHAPE, replace={CHANGED: changed})
    return models.convert(checkpoint, folder / "changed.gguf", "F32")
