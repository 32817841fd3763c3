"""config.json to hyper-parameters.

Every key whose value changes the computation is read or checked here: a value that this project does not compute is
refused by key and value, never guessed at. Configs saved by transformers 4 and 5 are both read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.errors import ArgumentError, CheckpointError, UnsupportedError
from convert.window import sliding_window_period

ARCHITECTURES = {"CohereForCausalLM": "command-r", "Cohere2ForCausalLM": "cohere2"}

# Keys that do not matter while they hold one of these values (None is an absent key) and that change the model when
# they do not.
_REQUIRED_VALUES: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "tie_word_embeddings": (True, None),
    "use_embedding_sharing": (True, None),
    "use_gated_activation": (True, None),
    "use_parallel_block": (True, None),
    "position_embedding_type": ("rope_gptj", None),
    "order_of_interleaved_layers": ("local_attn_first", None),
    "rotary_pct": (1.0, None),
    "partial_rotary_factor": (1.0, None),
    "num_experts": (0, None),
    "num_local_experts": (0, None),
}

# Larger values of a tokenizer's model_max_length mean "no limit": transformers writes 1e30.
_MAX_CONTEXT = 2**24

# The config of the published Command R7B says 8192 (the default of its class) or 132096 and holds no
# model_max_length; the model was trained on, and its card promises, 131072. No other published cohere2 model has
# this shape: (layers, embedding, feed forward, vocabulary).
_COMMAND_R7B_SHAPE = (32, 4096, 14336, 256000)
_COMMAND_R7B_CONTEXT = 131072


@dataclass(frozen=True)
class HParams:
    """Hyper-parameters of one model.

    Lengths count elements, ``n_ctx_train`` and ``sliding_window`` count positions. ``sliding_window`` and
    ``swa_period`` are 0 for command-r; in cohere2 every ``swa_period``-th layer has no window. ``use_qk_norm`` is what
    the config says, None when it says nothing: the tensors decide.
    """

    architecture: str
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_ff: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    rope_freq_base: float
    norm_eps: float
    logit_scale: float
    sliding_window: int
    swa_period: int
    use_qk_norm: bool | None


def read_hparams(
    config: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any] | None = None,
    *,
    context_length: int | None = None,
) -> HParams:
    """Hyper-parameters from config.json.

    ``context_length`` overrides what the files say. Raises UnsupportedError for a model that this project does not
    compute and CheckpointError for a key that is missing or of the wrong kind; both name the key and its value.
    """
    architecture = _architecture(config)
    for key, allowed in _REQUIRED_VALUES.items():
        if config.get(key) not in allowed:
            raise UnsupportedError(f"config.json: {key} is {_short(config[key])}, only {allowed[0]!r} is supported")

    n_embd, n_head = _count(config, "hidden_size"), _count(config, "num_attention_heads")
    n_head_kv = n_head if config.get("num_key_value_heads") is None else _count(config, "num_key_value_heads")
    if n_embd % n_head or (n_embd // n_head) % 2:
        raise CheckpointError(
            f"config.json: hidden_size {n_embd} over num_attention_heads {n_head} is not an even head size"
        )
    if n_head % n_head_kv:
        raise CheckpointError(
            f"config.json: num_attention_heads {n_head} is no multiple of num_key_value_heads {n_head_kv}"
        )
    head_dim = n_embd // n_head
    if config.get("head_dim") not in (None, head_dim):
        raise UnsupportedError(
            f"config.json: head_dim is {config['head_dim']!r}, only hidden_size / num_attention_heads = {head_dim} "
            f"is supported"
        )
    use_qk_norm = config.get("use_qk_norm")
    if use_qk_norm not in (None, False, True):
        raise CheckpointError(f"config.json: use_qk_norm is {use_qk_norm!r}, not true or false")

    n_layer, n_ff, n_vocab = (_count(config, key) for key in ("num_hidden_layers", "intermediate_size", "vocab_size"))
    sliding_window = swa_period = 0
    if architecture == "cohere2":
        sliding_window, swa_period = _count(config, "sliding_window"), sliding_window_period(config, n_layer)

    shape = (n_layer, n_embd, n_ff, n_vocab)
    return HParams(
        architecture=architecture,
        n_vocab=n_vocab,
        n_ctx_train=_context_length(config, tokenizer_config or {}, architecture, shape, context_length),
        n_embd=n_embd,
        n_ff=n_ff,
        n_layer=n_layer,
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        rope_freq_base=_rope_freq_base(config),
        norm_eps=_positive(config, "layer_norm_eps"),
        logit_scale=_positive(config, "logit_scale"),
        sliding_window=sliding_window,
        swa_period=swa_period,
        use_qk_norm=use_qk_norm,
    )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise CheckpointError("config.json: the key 'architectures' is missing or is not a list of names")
    if len(names) == 1 and names[0] in ARCHITECTURES:
        return ARCHITECTURES[names[0]]
    name = ", ".join(map(str, names))
    reason = ""
    if "Vision" in name:
        reason = ": models with an image encoder are not supported"
    elif "Moe" in name:
        reason = ": mixture-of-experts models are not supported"
    raise UnsupportedError(f"config.json: architecture {name} is not one of {', '.join(ARCHITECTURES)}{reason}")


def _context_length(
    config: Mapping[str, Any],
    tokenizer_config: Mapping[str, Any],
    architecture: str,
    shape: tuple[int, int, int, int],
    override: int | None,
) -> int:
    """How many positions the model was trained for: the first of these that is there.

    1. ``override``; 2. the config's model_max_length (v01 and Command-R+ say 8192 in max_position_embeddings and the
    truth here); 3. 131072 for Command R7B, see above; 4. the larger of max_position_embeddings and the tokenizer's
    model_max_length. The larger, because fine-tuning tools set the tokenizer's value to the length that they cut at.
    """
    if override is not None:
        if not 1 <= override <= _MAX_CONTEXT:
            raise ArgumentError(f"the context length must be in 1..{_MAX_CONTEXT}, not {override}")
        return override
    if _is_context(config.get("model_max_length")):
        return int(config["model_max_length"])
    positions = _count(config, "max_position_embeddings")
    if architecture == "cohere2" and shape == _COMMAND_R7B_SHAPE and positions in (8192, 132096):
        return _COMMAND_R7B_CONTEXT
    limit = tokenizer_config.get("model_max_length")
    return max(positions, int(limit)) if limit is not None and _is_context(limit) else positions


def _is_context(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 1 <= value <= _MAX_CONTEXT and value == int(value)


def _rope_freq_base(config: Mapping[str, Any]) -> float:
    for key in ("rope_scaling", "rope_parameters"):
        value = config.get(key)
        if value is None:
            continue
        if not isinstance(value, dict):
            raise CheckpointError(f"config.json: {key} is {_short(value)}, not an object")
        kind = value.get("rope_type", value.get("type", "default"))
        rest = {
            name: item
            for name, item in value.items()
            if name not in ("rope_type", "type", "rope_theta")
            and not (name in ("factor", "partial_rotary_factor") and item in (None, 1, 1.0))
        }
        if kind not in (None, "default", "none") or rest:
            raise UnsupportedError(f"config.json: {key} is {_short(value)}, only the type 'default' is supported")
    # transformers 5 moved rope_theta into rope_parameters.
    parameters = config.get("rope_parameters")
    if isinstance(parameters, dict) and "rope_theta" in parameters:
        return _positive(parameters, "rope_theta", "rope_parameters.rope_theta")
    return _positive(config, "rope_theta")


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**32:
        what = "is missing" if key not in config else f"is {_short(value)}, not a positive whole number"
        raise CheckpointError(f"config.json: {key} {what}")
    return value


def _positive(config: Mapping[str, Any], key: str, label: str | None = None) -> float:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (value > 0 and math.isfinite(value)):
        what = "is missing" if key not in config else f"is {_short(value)}, not a positive number"
        raise CheckpointError(f"config.json: {label or key} {what}")
    return float(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
