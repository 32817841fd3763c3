"""Small checkpoints whose attention is sharp among very many positions, and tokens to let them read.

Attention of the random weights of shapes.py over thousands of positions is close to a mean of them all, in which no
position shows. Here scores spread twice as wide, so that few positions count for a query, and tokens of a kind of their
own, the marks, find each other wherever positions do not matter: what is lost at one of them shows in what the others
get. The bases of RoPE are those of the published models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import shapes

_SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 1}
_OVERRIDES: dict[str, dict[str, Any]] = {
    "v01": _SMALL | {"num_key_value_heads": 2, "rope_theta": 8e6},
    "gqa": _SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 4e6},
    "r_plus": _SMALL | {"num_key_value_heads": 1, "rope_theta": 75e6},
    # Three layers with windows and one without.
    "cohere2": _SMALL
    | {
        "num_hidden_layers": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "rope_theta": 5e4,
        "sliding_window": 50,
    },
}

MARKS = np.arange(600, 664, dtype=np.int32)
_SHARPER = np.float32(2)  # times the queries
_ALIKE = 6.0  # how much longer what all marks share is than what each has of its own
_SOFTER = np.float32(0.3)  # what layers before the last one add, so that the last one still sees what tokens there are


def config(shape: str, **overrides: Any) -> dict[str, Any]:
    """What shapes.write_checkpoint is given for a shape."""
    return _OVERRIDES[shape] | overrides


def write_checkpoint(folder: Path, shape: str, *, pull: float = 1.0, **overrides: Any) -> Path:
    """A checkpoint in float32. pull: how much higher marks score with each other. overrides: keys of config.json."""
    given = config(shape, **overrides)
    whole = shapes.SHAPES[shape] | given
    changed = {name: values.copy() for name, values in shapes.tensors(whole, 0)}
    last = f"model.layers.{whole['num_hidden_layers'] - 1}."
    for name in changed:
        kind = name.split(".")[-2]
        if kind == ("q_norm" if whole.get("use_qk_norm") else "q_proj"):
            changed[name] *= _SHARPER
        elif kind in ("o_proj", "down_proj") and not name.startswith(last):
            changed[name] *= _SOFTER
    _mark(changed, last, whole, pull)
    return shapes.write_checkpoint(folder, shape, dtype="F32", replace=changed, **given)


def _mark(changed: dict[str, shapes.Floats], last: str, whole: dict[str, Any], pull: float) -> None:
    """Give the marks a direction in common, whose keys in the last layer are what its queries look for."""
    embedding = changed["model.embed_tokens.weight"]
    direction = shapes.normal(0, "marks", (whole["hidden_size"],)).astype(np.float64)
    direction -= direction.mean()
    own = embedding[MARKS].astype(np.float64)
    shared = direction * np.sqrt((own**2).mean() / (direction**2).mean())
    embedding[MARKS] = _rounded((own + _ALIKE * shared) / np.sqrt(1 + _ALIKE**2))

    direction /= np.sqrt((direction**2).sum())
    n_head, n_head_kv = whole["num_attention_heads"], whole["num_key_value_heads"]
    q, k = changed[last + "self_attn.q_proj.weight"], changed[last + "self_attn.k_proj.weight"]
    wanted = (q.astype(np.float64) @ direction).reshape(n_head_kv, n_head // n_head_kv, -1).mean(1).reshape(-1)
    if not whole.get("use_qk_norm"):
        wanted /= _SHARPER
    k += _rounded(pull * np.outer(wanted, direction))


def _rounded(values: npt.NDArray[np.float64]) -> shapes.Floats:
    """To a grid on which it does not matter in what order a processor sums: the golden file needs the same weights."""
    return (np.round(values * 4096) / 4096).astype(np.float32)


def tokens(n: int, marked: Sequence[int] = ()) -> npt.NDArray[np.int32]:
    """<BOS_TOKEN> and n - 1 tokens of text, with marks at these positions, each in its turn."""
    raw = np.random.PCG64([12, 0]).random_raw(n - 1)
    text = 8 + (np.asarray(raw, np.uint64) >> np.uint64(33)) % np.uint64(590)
    result = np.append(np.int32(5), text.astype(np.int32))
    for i, position in enumerate(marked):
        result[position] = MARKS[i % len(MARKS)]
    return result
