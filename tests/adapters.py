"""Small LoRA adapters in PEFT's form for the checkpoints of shapes.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import shapes
from shapes import Floats

RANK, ALPHA = 4, 6
QUERY, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"
EMBEDDING = "model.embed_tokens"
CONFIG: dict[str, Any] = {  # what peft 0.21 writes for a plain adapter
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "auto_mapping", "corda_config", "eva_config")),
    **dict.fromkeys(("exclude_modules", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform")),
    **dict.fromkeys(("lora_ga_config", "megatron_config", "modules_to_save", "revision", "target_parameters")),
    **dict.fromkeys(("monteclora_config", "trainable_token_indices", "use_bdlora", "velora_config")),
    **dict.fromkeys(("ensure_weight_tying", "fan_in_fan_out", "lora_bias", "use_dora", "use_qalora"), False),
    "alpha_pattern": {},
    "base_model_name_or_path": "CohereLabs/c4ai-command-r-08-2024",
    "bias": "none",
    "inference_mode": True,
    "init_lora_weights": True,
    "loftq_config": {},
    "lora_alpha": ALPHA,
    "lora_dropout": 0.05,
    "megatron_core": "megatron.core",
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": RANK,
    "rank_pattern": {},
    "target_modules": [QUERY, DOWN],
    "task_type": "CAUSAL_LM",
    "use_rslora": False,
}


def factors(module: str, *, rank: int = RANK, seed: int = 1) -> tuple[Floats, Floats]:
    """A [rank, n_in] and B [n_out, rank] for a module of the base."""
    n_out, n_in = shapes.tensor_shapes(shapes.config_json("gqa"))[f"{module}.weight"]
    return shapes.normal(seed, f"{module}.A", (rank, n_in)), shapes.normal(seed, f"{module}.B", (n_out, rank))


def linear(module: str, *, rank: int = RANK, seed: int = 1) -> dict[str, Floats]:
    a, b = factors(module, rank=rank, seed=seed)
    return {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}


def write_adapter(
    folder: Path, tensors: Mapping[str, Floats] | None = None, *, dtype: str = "F32", **config: Any
) -> Path:
    folder.mkdir(exist_ok=True)
    entries = linear(QUERY) | linear(DOWN) if tensors is None else tensors
    shapes.write_safetensors(
        folder / "adapter_model.safetensors",
        {name: (dtype, values.shape, shapes.encode(values, dtype)) for name, values in entries.items()},
    )
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder
