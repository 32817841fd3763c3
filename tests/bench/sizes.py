"""Shapes whose speed is compared: those of real models, for random weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import shapes

SIZES: dict[str, dict[str, Any]] = {
    # Command R7B's width with Command-R's layers: 8.0e9 weights, grouped heads, no windows.
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 256000,
        "rope_theta": 4000000.0,
        "logit_scale": 0.0625,
    },
    # 1.07e9 weights, half of them the embedding, which is the head as well.
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "num_hidden_layers": 12,
        "vocab_size": 256000,
        "rope_theta": 4000000.0,
        "logit_scale": 0.0625,
    },
}


def config_json(size: str, n_layers: int | None = None, *, transformers: int = 4) -> dict[str, Any]:
    """The contents of config.json, see `shapes.config_json`. n_layers: instead of the size's own number."""
    layers = {} if n_layers is None else {"num_hidden_layers": n_layers}
    return shapes.config_json("gqa", transformers=transformers, **(SIZES[size] | layers))
