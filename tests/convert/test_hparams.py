from __future__ import annotations

from typing import Any

import pytest

import shapes
from convert.errors import ArgumentError, CheckpointError, ConvertError, UnsupportedError
from convert.hparams import HParams, read_hparams

R7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "head_dim": 128,
    "vocab_size": 256000,
}
NO_LIMIT = 1000000000000000019884624838656


def changed(shape: str, changes: dict[str, Any], transformers: int = 4) -> dict[str, Any]:
    return shapes.config_json(shape, transformers=transformers) | changes


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_configs_of_transformers_4_and_5_say_the_same(shape: str) -> None:
    old, new = (read_hparams(shapes.config_json(shape, transformers=version)) for version in (4, 5))
    assert old == new


def test_every_field() -> None:
    assert read_hparams(shapes.config_json("cohere2")) == HParams(
        architecture="cohere2",
        n_vocab=768,
        n_ctx_train=131072,
        n_embd=256,
        n_ff=512,
        n_layer=8,
        n_head=4,
        n_head_kv=2,
        head_dim=64,
        rope_freq_base=5000.0,
        norm_eps=1e-5,
        logit_scale=0.25,
        sliding_window=20,
        swa_period=4,
        use_qk_norm=None,
    )
    r_plus = read_hparams(shapes.config_json("r_plus"))
    assert (r_plus.architecture, r_plus.use_qk_norm, r_plus.sliding_window, r_plus.swa_period) == (
        "command-r",
        True,
        0,
        0,
    )


def test_heads_without_groups() -> None:
    config = shapes.config_json("v01", num_key_value_heads=None)
    assert read_hparams(config).n_head_kv == 4


@pytest.mark.parametrize(
    ("shape", "changes", "key_parts"),
    [
        ("gqa", {"hidden_act": "gelu"}, ["hidden_act", "'gelu'", "'silu'"]),
        ("gqa", {"attention_bias": True}, ["attention_bias", "True"]),
        ("gqa", {"tie_word_embeddings": False}, ["tie_word_embeddings", "False"]),
        ("gqa", {"rope_scaling": {"type": "linear", "factor": 4.0}}, ["rope_scaling", "linear"]),
        ("gqa", {"rope_scaling": {"rope_type": "default", "factor": 8.0}}, ["rope_scaling", "factor"]),
        ("gqa", {"rope_scaling": {"type": "dynamic"}}, ["rope_scaling", "dynamic"]),
        ("gqa", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ["rope_parameters", "yarn"]),
        ("gqa", {"head_dim": 48}, ["head_dim", "48", "32"]),
        ("gqa", {"num_experts": 8}, ["num_experts", "8"]),
        ("cohere2", {"rotary_pct": 0.5}, ["rotary_pct", "0.5"]),
        ("cohere2", {"position_embedding_type": "alibi"}, ["position_embedding_type", "alibi"]),
        ("cohere2", {"use_parallel_block": False}, ["use_parallel_block", "False"]),
        ("cohere2", {"order_of_interleaved_layers": "global_attn_first"}, ["order_of_interleaved_layers"]),
        ("gqa", {"architectures": ["LlamaForCausalLM"]}, ["LlamaForCausalLM", "CohereForCausalLM"]),
        ("gqa", {"architectures": ["Cohere2MoeForCausalLM"]}, ["Cohere2MoeForCausalLM", "mixture-of-experts"]),
        (
            "gqa",
            {"architectures": ["Cohere2VisionForConditionalGeneration"]},
            ["Cohere2VisionForConditionalGeneration", "image"],
        ),
    ],
)
def test_what_is_not_computed_is_refused(shape: str, changes: dict[str, Any], key_parts: list[str]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_hparams(changed(shape, changes))
    assert all(part in str(caught.value) for part in ["config.json", *key_parts]), caught.value


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("value", [None, {"rope_type": "default"}, {"type": "none", "factor": 1.0}])
def test_rope_without_scaling_is_accepted(key: str, value: Any) -> None:
    assert read_hparams(changed("gqa", {key: value})).rope_freq_base == 40000.0


@pytest.mark.parametrize(
    "key",
    [
        "architectures",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "layer_norm_eps",
        "logit_scale",
        "rope_theta",
        "sliding_window",
    ],
)
@pytest.mark.parametrize("value", ["missing", None, -1, "4", True, [], float("nan")])
def test_damaged_key_is_named(key: str, value: Any) -> None:
    config = changed("cohere2", {key: value})
    if value == "missing":
        del config[key]
    with pytest.raises(CheckpointError, match=key):
        read_hparams(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 7}, "hidden_size 256 over num_attention_heads 7"),
        ({"num_key_value_heads": 3}, "num_attention_heads 8 is no multiple of num_key_value_heads 3"),
        ({"use_qk_norm": "yes"}, "use_qk_norm"),
        ({"rope_scaling": "yarn"}, "rope_scaling"),
        ({"architectures": []}, "architectures"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_hparams(changed("gqa", changes))


@pytest.mark.parametrize(
    ("shape", "changes", "tokenizer_limit", "expected"),
    [
        # v01 and Command-R+: the config holds both numbers.
        ("v01", {"max_position_embeddings": 8192, "model_max_length": 131072}, NO_LIMIT, 131072),
        # 08-2024
        ("gqa", {"max_position_embeddings": 131072}, NO_LIMIT, 131072),
        # Aya 23: 8192 is the truth
        ("gqa", {"max_position_embeddings": 8192}, NO_LIMIT, 8192),
        ("gqa", {"max_position_embeddings": 8192, "model_max_length": NO_LIMIT}, 131072, 131072),
        # a fine-tuning tool's cut
        ("gqa", {"max_position_embeddings": 131072}, 2048, 131072),
        # Command R7B, first and later config
        ("cohere2", R7B | {"max_position_embeddings": 8192}, NO_LIMIT, 131072),
        ("cohere2", R7B | {"max_position_embeddings": 132096}, NO_LIMIT, 131072),
        ("cohere2", R7B | {"max_position_embeddings": 8192, "model_max_length": 65536}, NO_LIMIT, 65536),
        # Command A
        ("cohere2", {"max_position_embeddings": 262144}, None, 262144),
        ("cohere2", {"max_position_embeddings": 8192}, None, 8192),
    ],
)
def test_context_length(shape: str, changes: dict[str, Any], tokenizer_limit: int | None, expected: int) -> None:
    tokenizer_config = {} if tokenizer_limit is None else {"model_max_length": tokenizer_limit}
    config = changed(shape, {"model_max_length": None} | changes)
    assert read_hparams(config, tokenizer_config).n_ctx_train == expected
    assert read_hparams(config, tokenizer_config, context_length=1000).n_ctx_train == 1000


@pytest.mark.parametrize("value", [0, -5, 2**31])
def test_context_length_out_of_range(value: int) -> None:
    with pytest.raises(ArgumentError, match=str(value)):
        read_hparams(shapes.config_json("gqa"), context_length=value)


def kinds(text: str) -> list[str]:
    return [{"s": "sliding_attention", "f": "full_attention"}.get(letter, letter) for letter in text]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sliding_window_pattern": None, "layer_switch": None}, 4),
        ({"sliding_window_pattern": None, "layer_switch": 2}, 2),
        ({"sliding_window_pattern": 3, "layer_switch": None}, 3),
        ({"layer_types": kinds("sssfsssf")}, 4),
        ({"sliding_window_pattern": None, "layer_switch": None, "layer_types": kinds("ssfssfss")}, 3),
        ({"sliding_window_pattern": None, "layer_switch": None, "layer_types": kinds("ffffffff")}, 1),
        ({"sliding_window_pattern": None, "layer_switch": None, "layer_types": kinds("ssssssss")}, 9),
    ],
)
def test_window_period(changes: dict[str, Any], expected: int) -> None:
    assert read_hparams(changed("cohere2", changes)).swa_period == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": kinds("ssfsssfs")}, r"layer_types\[2\] is 'full_attention'.*period of 4"),
        ({"layer_types": kinds("sssfssss")}, r"layer_types\[7\] is 'sliding_attention'.*period of 4"),
        ({"layer_types": kinds("sssxsssf")}, r"layer_types\[3\] is 'x'"),
        ({"layer_types": kinds("sssf")}, "layer_types is not a list of num_hidden_layers = 8"),
        ({"sliding_window_pattern": 3}, "sliding_window_pattern and layer_switch disagree"),
        ({"sliding_window_pattern": 0}, "sliding_window_pattern is 0"),
        ({"sliding_window": None}, "sliding_window"),
    ],
)
def test_window_that_follows_no_period(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        read_hparams(changed("cohere2", changes))
