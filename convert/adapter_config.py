"""adapter_config.json of a PEFT LoRA adapter: what it says about every module, and what of it is not supported."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from convert.checkpoint import read_json
from convert.errors import CheckpointError, UnsupportedError

_T = TypeVar("_T")

# Keys that are read here, or say how the adapter was trained or loaded and leave B A as it is. Any other that holds
# more than nothing is refused.
_KNOWN = {
    *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"),
    *("exclude_modules", "layers_to_transform", "init_lora_weights", "modules_to_save"),
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config"),
    *("inference_mode", "layers_pattern", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config"),
    *("megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"),
}
_NOTHING: tuple[object, ...] = (None, False, "none", [], {})
# The other ways to begin (pissa, olora, corda, loftq, lora_ga) change the base's weights as well.
_PLAIN_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterConfig:
    """The parts of a LoRA configuration that a merge depends on; module names are those of the base model."""

    path: Path
    base_model: str
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    targets: tuple[str, ...] | str | None
    excluded: tuple[str, ...] | str | None
    layers: tuple[int, ...] | None

    def rank_of(self, module: str) -> int:
        """The rank r of a module."""
        return _matched(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of B A: alpha / r, or alpha / sqrt(r) with use_rslora."""
        alpha, rank = _matched(self.alpha_pattern, module, self.alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def is_targeted(self, module: str) -> bool:
        """Whether the adapter is meant to have tensors for a module."""
        if not _matches(self.targets, module) or _matches(self.excluded, module):
            return False
        layer = re.search(r"\.layers\.(\d+)\.", module)
        return self.layers is None or (layer is not None and int(layer[1]) in self.layers)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The configuration of an adapter.

    Raises UnsupportedError, naming key and value, for one that is more than scale * B A on some matrices, and
    CheckpointError for one that is malformed.
    """
    path = folder / "adapter_config.json"
    config = read_json(path)

    _check_supported(path, config)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not _is_rank(rank):
        raise CheckpointError(f"{path}: r is {_short(rank)}, not a positive whole number")
    if not _is_number(alpha):
        raise CheckpointError(f"{path}: lora_alpha is {_short(alpha)}, not a number")
    patterns = {key: config.get(key) or {} for key in ("rank_pattern", "alpha_pattern")}
    for key, valid in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        if not isinstance(patterns[key], dict) or not all(map(valid, patterns[key].values())):
            raise CheckpointError(f"{path}: {key} is {_short(patterns[key])}, not an object of numbers")
    result = AdapterConfig(
        path=path,
        base_model=str(config.get("base_model_name_or_path") or ""),
        rank=rank,
        alpha=alpha,
        use_rslora=config.get("use_rslora") is True,
        **patterns,
        targets=_modules(path, config, "target_modules"),
        excluded=_modules(path, config, "exclude_modules"),
        layers=_layers(path, config),
    )
    try:
        result.scale_of("")
        result.is_targeted("")
    except re.error as error:
        raise CheckpointError(f"{path}: a pattern for modules is no regular expression: {error}") from error
    return result


def _check_supported(path: Path, config: Mapping[str, Any]) -> None:
    def refuse(key: str, reason: str) -> None:
        raise UnsupportedError(f"{path}: {key} is {_short(config.get(key))}: {reason}")

    if config.get("peft_type") != "LORA":
        refuse("peft_type", "only 'LORA' is supported")
    if config.get("modules_to_save"):
        refuse("modules_to_save", "whole modules are no low-rank change; merge the adapter with peft first")
    if config.get("init_lora_weights", True) not in _PLAIN_BEGINNINGS:
        refuse("init_lora_weights", "it changed the base model as well; let peft save the adapter as plain LoRA")
    for key, value in config.items():
        if key not in _KNOWN and value not in _NOTHING:
            refuse(key, "adapters with this are not supported")


def _matched(pattern: Mapping[str, _T], module: str, default: _T) -> _T:
    """The value of the first key that matches the module's name or the end of it behind a dot, as in peft."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _matches(names: tuple[str, ...] | str | None, module: str) -> bool:
    """A text is a regular expression for the whole name, the items of a list are ends of it; as in peft."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names or ())


def _modules(path: Path, config: Mapping[str, Any], key: str) -> tuple[str, ...] | str | None:
    value = config.get(key)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{path}: {key} is {_short(value)}, neither a text nor a list of names")
    return tuple(value)


def _layers(path: Path, config: Mapping[str, Any]) -> tuple[int, ...] | None:
    value = config.get("layers_to_transform")
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int for number in numbers):
        raise CheckpointError(f"{path}: layers_to_transform is {_short(value)}, not a list of layer numbers")
    return tuple(numbers)


def _is_rank(value: object) -> TypeGuard[int]:
    return type(value) is int and 1 <= value < 2**31


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
