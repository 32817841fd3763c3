"""Checkpoints that are quantized already: refused, with what to convert instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf

from convert.errors import UnsupportedError

# compression_config is what older versions of compressed-tensors wrote.
KEYS = ("quantization_config", "compression_config")

_NAMES = {
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "FP8",
    "fp8": "FP8",
    "gptq": "GPTQ",
}
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def refuse_quantized(config: Mapping[str, Any], folder: Path) -> None:
    """Raises UnsupportedError when config.json says that the weights of ``folder`` are quantized.

    Their values are rounded: rounded once more they are worse than the original's, which takes no longer to convert.
    """
    for key in KEYS:
        value = config.get(key)
        if not value:
            continue
        origin = _origin(config, folder)
        instead = f", which seems to be {origin}" if origin else ""
        raise UnsupportedError(
            f"{folder / 'config.json'}: the weights are quantized already ({_describe(key, value)}): convert the "
            f"unquantized checkpoint that they were made from{instead}; give an adapter trained on top with --lora"
        )


def _describe(key: str, value: object) -> str:
    fields = value if isinstance(value, dict) else {}
    method = fields.get("quant_method")
    if not isinstance(method, str):
        return f"{key} is there, without a quant_method"
    name = _NAMES.get(method, method)
    if method == "bitsandbytes":
        bits: object = 4 if fields.get("load_in_4bit") or fields.get("_load_in_4bit") else 8
    else:
        bits = fields.get("bits", fields.get("w_bit"))
    return f"{name}, {bits} bits" if isinstance(bits, int) else name


def _origin(config: Mapping[str, Any], folder: Path) -> str | None:
    """The repository that the model card or the config names as the base."""
    card: dict[str, Any] = {}
    with suppress(Exception):  # its author may have written anything, and it is only asked for a hint
        card = gguf.Metadata.load_model_card(folder)
    base = card.get("base_model")
    names = [*(base if isinstance(base, list) else [base]), config.get("_name_or_path")]
    return next((name for name in names if isinstance(name, str) and _REPOSITORY.fullmatch(name)), None)
