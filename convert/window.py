"""The order of windowed and full layers in a cohere2 config, as one number: the period."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convert.errors import CheckpointError, UnsupportedError

DEFAULT_PERIOD = 4

_KINDS = ("sliding_attention", "full_attention")


def sliding_window_period(config: Mapping[str, Any], n_layer: int) -> int:
    """Period p such that layer i (from 0) sees everything when (i + 1) % p == 0 and has a window otherwise.

    Read from layer_types, which transformers 5 writes, or from sliding_window_pattern (layer_switch in older configs);
    4 when the config says nothing. Raises UnsupportedError when the layers follow no period, CheckpointError when a
    key is malformed or two keys disagree.
    """
    numbers = {key: config[key] for key in ("sliding_window_pattern", "layer_switch") if config.get(key) is not None}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise CheckpointError(f"config.json: {key} is {value!r}, not a positive whole number")
    if len(set(numbers.values())) > 1:
        raise CheckpointError(f"config.json: sliding_window_pattern and layer_switch disagree: {numbers}")
    number = next(iter(numbers.values()), None)

    layer_types = config.get("layer_types")
    if layer_types is None:
        return DEFAULT_PERIOD if number is None else number
    if not isinstance(layer_types, list) or len(layer_types) != n_layer:
        raise CheckpointError(f"config.json: layer_types is not a list of num_hidden_layers = {n_layer} names")
    for i, kind in enumerate(layer_types):
        if kind not in _KINDS:
            raise UnsupportedError(f"config.json: layer_types[{i}] is {kind!r}, only {' and '.join(_KINDS)} are known")

    period = _period(layer_types, number)
    for i, kind in enumerate(layer_types):
        if kind != _KINDS[(i + 1) % period == 0]:
            raise UnsupportedError(
                f"config.json: layer_types[{i}] is {kind!r}, which does not follow the period of {period} layers"
            )
    return period


def _period(layer_types: Sequence[str], number: int | None) -> int:
    if number is not None:
        return number
    if "full_attention" in layer_types:
        return layer_types.index("full_attention") + 1
    # No layer is full, so every period beyond the last layer says the same.
    return max(DEFAULT_PERIOD, len(layer_types) + 1)
