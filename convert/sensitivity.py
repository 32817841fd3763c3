"""How much a model's predictions change when one tensor is rounded, as `commandr sensitivity` measures it.

    {"format": "commandr-sensitivity", "version": 1, "model": NAME, "text_sha256": HEX, "n_tokens": N,
     "tensors": {"blk.0.attn_q.weight": {"type": "Q4_K", "relative_error": E, "kl": K}, ...}}

kl: mean KL divergence in nats per token of the model with only this tensor rounded to this type from the model without.
relative_error: ||W - W'||^2 / ||W||^2 of that rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.errors import ArgumentError
from convert.recipe import GGML_TYPES

_NOISE = 1e-6  # nats; a divergence of next to nothing may come out below 0


@dataclass(frozen=True)
class Probe:
    """What rounding a tensor to ``ggml_type`` did: ``kl`` in nats per token."""

    ggml_type: str
    relative_error: float
    kl: float


@dataclass(frozen=True)
class Sensitivity:
    """``probes`` by tensor name; ``model`` is the name of the model that was measured."""

    path: Path
    model: str
    probes: Mapping[str, Probe]
    sha256: str


def read_sensitivity(path: Path) -> Sensitivity:
    """Raises ArgumentError naming the file and, where one is at fault, the tensor."""
    try:
        data = path.read_bytes()
        content = json.loads(data)
    except OSError as error:
        raise ArgumentError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise ArgumentError(f"{path} is not a file of 'commandr sensitivity': it is not JSON") from None
    if not isinstance(content, dict) or content.get("format") != "commandr-sensitivity":
        raise ArgumentError(f"{path} is not a file of 'commandr sensitivity'")
    if content.get("version") != 1:
        raise ArgumentError(f"{path} has version {content.get('version')}; this program knows version 1")
    tensors = content.get("tensors")
    if not isinstance(tensors, dict) or not tensors:
        raise ArgumentError(f"{path} holds no tensors")
    probes = {name: _probe(path, name, entry) for name, entry in tensors.items()}
    return Sensitivity(path, str(content.get("model", "")), probes, hashlib.sha256(data).hexdigest())


def _probe(path: Path, name: str, entry: Any) -> Probe:
    fields = entry if isinstance(entry, dict) else {}
    ggml_type = fields.get("type")
    error, kl = (_number(fields.get(key)) for key in ("relative_error", "kl"))
    if ggml_type not in GGML_TYPES or not error >= 0 or not kl >= -_NOISE:
        raise ArgumentError(f"{path}: the entry of {name} needs a type, a relative_error and a kl of 0 or more")
    return Probe(ggml_type, error, max(kl, 0.0))


def _number(value: Any) -> float:
    """NaN when it is none, or not finite."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else math.nan
