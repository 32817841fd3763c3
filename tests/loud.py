"""A model whose attention sums up to more than 16-bit floats can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import models
import shapes

N_TOKENS = 900
GAIN = np.float32(150)
TOKENS = np.full(N_TOKENS, 300, np.int32)
"""One token over and over, whose values are summed up to far above 65504, and some others at both ends."""
TOKENS[0] = 5
TOKENS[-3:] = 400, 500, 600


def write(folder: Path) -> tuple[Path, Path]:
    """A checkpoint and its F32 file, with value vectors a hundred times as long and little preference among keys."""
    config = shapes.SHAPES["gqa"]
    gains = {"v_proj": GAIN, "o_proj": 1 / GAIN, "k_proj": np.float32(0.05)}
    replace = {
        name: values * gains[name.split(".")[-2]]
        for name, values in shapes.tensors(config, 0)
        if name.split(".")[-2] in gains
    }
    checkpoint = shapes.write_checkpoint(folder / "checkpoint", "gqa", dtype="F32", replace=replace)
    return checkpoint, models.convert(checkpoint, folder / "loud.gguf", "F32")
