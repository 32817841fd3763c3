"""Small random Command-R checkpoints in the layout of Hugging Face, written with numpy alone.

    write_checkpoint(folder, "gqa")                  # or v01, r_plus, cohere2
    python tests/shapes.py FOLDER --shape gqa        # the same from a shell

Weights follow from `seed` alone, bit for bit, whatever numpy is installed: the reference logits in tests/golden belong
to them. They are scaled so that logits have a spread of about 2, attention is neither flat nor a single spike, and
every step of the model (norm weights, mean subtraction, q/k norm, window) changes the result visibly.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import tiny_tokenizer

Floats = npt.NDArray[np.float32]

_COMMON: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 5,
    "eos_token_id": tiny_tokenizer.turn_token_id("<|END_OF_TURN_TOKEN|>"),
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 8192,
    "model_max_length": 131072,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": tiny_tokenizer.VOCAB_SIZE,
}
_COHERE = _COMMON | {"architectures": ["CohereForCausalLM"], "model_type": "cohere"}
_COHERE2 = {
    "architectures": ["Cohere2ForCausalLM"],
    "model_type": "cohere2",
    "cache_implementation": "hybrid",
    "head_dim": 64,
    "layer_switch": 4,
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1.0,
    "sliding_window": 20,
    "sliding_window_pattern": 4,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": True,
}

SHAPES: dict[str, dict[str, Any]] = {
    "v01": _COHERE | {"num_hidden_layers": 4, "num_key_value_heads": 4, "rope_theta": 8000.0, "logit_scale": 0.0625},
    "gqa": _COHERE
    | {
        "num_attention_heads": 8,
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rope_theta": 40000.0,
        "logit_scale": 0.0625,
    },
    "r_plus": _COHERE
    | {
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "rope_theta": 75000.0,
        "logit_scale": 0.8333333333333334,
        "use_qk_norm": True,
    },
    "cohere2": _COMMON
    | _COHERE2
    | {"num_hidden_layers": 8, "num_key_value_heads": 2, "rope_theta": 5000.0, "logit_scale": 0.25},
}


def config_json(shape: str, *, dtype: str = "BF16", transformers: int = 4, **overrides: Any) -> dict[str, Any]:
    """The contents of config.json, with the key names of transformers 4 (as published) or 5.

    An override of None removes its key.
    """
    config = SHAPES[shape] | overrides
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    if transformers >= 5:
        config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
        config |= {"dtype": names[dtype], "transformers_version": "5.23.0"}
        if shape == "cohere2":
            period = config.pop("sliding_window_pattern")
            kinds = ("sliding_attention", "full_attention")
            config["layer_types"] = [kinds[(i + 1) % period == 0] for i in range(config["num_hidden_layers"])]
            # A config that transformers saves has nothing but the fields of its own class.
            for key in _COHERE2.keys() - {"architectures", "model_type", "head_dim", "sliding_window"}:
                config.pop(key, None)
    else:
        config |= {"torch_dtype": names[dtype], "transformers_version": "4.44.0"}
    return {key: value for key, value in sorted(config.items()) if value is not None}


def normal(seed: int, name: str, shape: tuple[int, ...]) -> Floats:
    """Nearly normal numbers of mean 0 and deviation 1 from a stream that `seed` and `name` choose.

    Sums of four 16-bit uniforms from a bit generator: numpy promises its raw bits to stay the same for good, which it
    does not promise for `standard_normal`.
    """
    bits = np.random.PCG64([seed, zlib.crc32(name.encode())])
    n = int(np.prod(shape))
    out = np.empty(n, np.float32)
    for start in range(0, n, 1 << 22):
        count = min(1 << 22, n - start)
        raw = np.asarray(bits.random_raw(count), "<u8").view("<u2").reshape(count, 4)
        total = raw.sum(axis=1, dtype=np.int64) - 2 * 65535
        out[start : start + count] = total / np.sqrt((65536.0**2 - 1) / 3)
    return out.reshape(shape)


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by name, in the order of the layers."""
    n_embd, n_ff, n_head = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim", n_embd // n_head)
    n_head_kv = config.get("num_key_value_heads", n_head)
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm": (n_embd,),
        "self_attn.q_proj": (n_head * head_dim, n_embd),
        "self_attn.k_proj": (n_head_kv * head_dim, n_embd),
        "self_attn.v_proj": (n_head_kv * head_dim, n_embd),
        "self_attn.o_proj": (n_embd, n_head * head_dim),
    }
    if config.get("use_qk_norm"):
        layer |= {"self_attn.q_norm": (n_head, head_dim), "self_attn.k_norm": (n_head_kv, head_dim)}
    layer |= {"mlp.gate_proj": (n_ff, n_embd), "mlp.up_proj": (n_ff, n_embd), "mlp.down_proj": (n_embd, n_ff)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], n_embd)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return shapes | {"model.norm.weight": (n_embd,)}


def tensors(config: Mapping[str, Any], seed: int) -> Iterator[tuple[str, Floats]]:
    """Every tensor's name and float32 values, in the order of the layers."""
    # Logits are logit_scale * |row| * sqrt(n_embd) wide.
    width = 2.0 / (config["logit_scale"] * np.sqrt(config["hidden_size"]))
    gains = {"q_proj": 1.4, "k_proj": 1.4, "o_proj": 3.0 * width, "gate_proj": 1.5, "down_proj": 2.0 * width}
    for name, shape in tensor_shapes(config).items():
        kind = name.split(".")[-2]
        values = normal(seed, name, shape)
        if kind == "embed_tokens":
            # The rows' own means make the mean subtraction of the norms matter.
            values += np.float32(0.5) * normal(seed, name + ".mean", (shape[0], 1))
            values *= np.float32(width)
        elif kind.endswith("norm"):
            values = np.float32(1.3 if kind in ("q_norm", "k_norm") else 1.0) + np.float32(0.25) * values
        else:
            values *= np.float32(gains.get(kind, 1.0) / np.sqrt(shape[1]))
        yield name, values


def encode(values: Floats, dtype: str) -> bytes:
    """`values` in a safetensors type: F32, F16 or BF16 (rounded to nearest, ties to even)."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return bytes(rounded.astype("<u2").data)
    return bytes(values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).data)


def write_safetensors(path: Path, entries: Mapping[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """Write tensors, given as name -> (safetensors type, shape, bytes), to one safetensors file."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, data) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.writelines(data for _, _, data in entries.values())


def write_checkpoint(
    folder: str | Path,
    shape: str,
    *,
    seed: int = 0,
    dtype: str = "BF16",
    n_layers: int | None = None,
    n_shards: int = 1,
    transformers: int = 4,
    tokenizer: Path | None = None,
    replace: Mapping[str, Floats | None] | None = None,
    **overrides: Any,
) -> Path:
    """Write a checkpoint of one of SHAPES into `folder`, which is made when absent, and return its path.

    seed: chooses the weights. dtype: of the tensors, BF16, F16 or F32. n_layers: instead of the shape's own number.
    n_shards: above 1, that many files with an index. transformers: 4 or 5, whose key names config.json has and where
    the chat templates stand. tokenizer: a folder whose tokenizer files are copied instead of writing the tiny ones;
    `vocab_size` and `eos_token_id` are then to be given, too. replace: tensors added or put in the place of the random
    ones, and with None left out. overrides: keys of config.json; None removes one.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if n_layers is not None:
        overrides["num_hidden_layers"] = n_layers
    config = config_json(shape, dtype=dtype, transformers=transformers, **overrides)
    _write_json(folder / "config.json", config)
    ids: dict[str, Any] = {key: value for key, value in config.items() if key.endswith("_token_id")}
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    if tokenizer is None:
        tiny_tokenizer.write_tokenizer(folder, templates_as_files=transformers >= 5)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tokenizer / name, folder / name)

    values: dict[str, Floats] = dict(tensors(SHAPES[shape] | overrides, seed))
    for name, value in (replace or {}).items():
        if value is None:
            del values[name]
        else:
            values[name] = value
    _write_weights(folder, {name: (dtype, v.shape, encode(v, dtype)) for name, v in values.items()}, n_shards)
    return folder


def _write_weights(folder: Path, entries: dict[str, tuple[str, tuple[int, ...], bytes]], n_shards: int) -> None:
    if n_shards == 1:
        write_safetensors(folder / "model.safetensors", entries)
        return
    names = list(entries)
    files: dict[str, str] = {}
    for i in range(n_shards):
        file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        part = names[len(names) * i // n_shards : len(names) * (i + 1) // n_shards]
        write_safetensors(folder / file, {name: entries[name] for name in part})
        files |= dict.fromkeys(part, file)
    total = sum(len(data) for _, _, data in entries.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a small random Command-R checkpoint.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="gqa")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("BF16", "F16", "F32"), default="BF16")
    parser.add_argument("--layers", type=int, default=None)
    parser.add_argument("--shards", type=int, default=1)
    arguments = parser.parse_args()
    write_checkpoint(
        arguments.folder,
        arguments.shape,
        seed=arguments.seed,
        dtype=arguments.dtype,
        n_layers=arguments.layers,
        n_shards=arguments.shards,
    )


if __name__ == "__main__":
    main()
