"""Which weights of a file type get another ggml type than the file type's own; a pure table.

The rules are those of llama.cpp's quantizer (src/llama-quant.cpp) for the tensors of this family. They give more bits
to what rounding hurts most: value projections, which several heads share, the attention's output, and the second
feed-forward matrix, above all in the first layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a weight stands: ``layer`` of ``n_layer``; ``n_gqa`` query heads share one key-value head."""

    layer: int
    n_layer: int
    n_gqa: int
    has_imatrix: bool


def _always(_: Place) -> bool:
    return True


def _shared(place: Place) -> bool:
    return place.n_gqa >= 4


def _first_2(place: Place) -> bool:
    return place.layer < 2


def _first_4(place: Place) -> bool:
    return place.layer < 4


def _first_sixteenth(place: Place) -> bool:
    return place.layer < place.n_layer // 16


def _first_eighth(place: Place) -> bool:
    return place.layer < place.n_layer // 8


def _first_eighth_with_imatrix(place: Place) -> bool:
    return place.has_imatrix and _first_eighth(place)


def _first_eighth_without_imatrix(place: Place) -> bool:
    return not place.has_imatrix and _first_eighth(place)


def _between_eighths(place: Place) -> bool:
    return place.n_layer // 8 <= place.layer < 7 * place.n_layer // 8


def _outer_and_thirds(place: Place) -> bool:
    """The first and the last eighth of the layers and every third one between."""
    return not _between_eighths(place) or (place.layer - place.n_layer // 8) % 3 == 2


@dataclass(frozen=True)
class Rule:
    """Weights of these ``kinds`` ("attn_v ffn_down") get ``ggml_type`` where ``applies`` says so."""

    kinds: str
    ggml_type: str
    applies: Callable[[Place], bool] = _always


_IQ4 = (Rule("attn_v", "Q5_K", _shared), Rule("ffn_down", "Q5_K", _first_eighth_without_imatrix))
_IQ2_S = (
    Rule("attn_v", "Q4_K", _shared),
    Rule("attn_v attn_output", "IQ3_S"),
    Rule("ffn_down", "IQ3_S", _first_eighth),
)
_IQ2_XS = (Rule("attn_v", "Q4_K", _shared), Rule("attn_v", "Q2_K"), Rule("ffn_down", "Q2_K", _first_eighth))

# For each file type, the first rule that applies wins; a weight that none applies to gets the file type's base.
RULES: dict[str, tuple[Rule, ...]] = {
    "Q5_K_M": (Rule("attn_v ffn_down", "Q6_K", _outer_and_thirds),),
    "Q5_0": (Rule("ffn_down", "Q5_1", _first_eighth_with_imatrix),),
    "Q4_K_M": (Rule("attn_v ffn_down", "Q6_K", _outer_and_thirds),),
    "Q4_K_S": (Rule("attn_v", "Q5_K", _first_4), Rule("ffn_down", "Q5_K", _first_eighth)),
    "Q4_0": (Rule("ffn_down", "Q4_1", _first_eighth_with_imatrix),),
    "IQ4_NL": _IQ4,
    "IQ4_XS": _IQ4,
    "Q3_K_L": (Rule("attn_v attn_output ffn_down", "Q5_K"),),
    "Q3_K_M": (
        Rule("attn_v", "Q5_K", _first_2),
        Rule("ffn_down", "Q5_K", _first_sixteenth),
        Rule("attn_v attn_output ffn_down", "Q4_K"),
    ),
    "IQ3_M": (Rule("attn_v attn_output", "Q4_K"), Rule("ffn_down", "Q4_K", _first_eighth)),
    "IQ3_S": (Rule("attn_v", "Q4_K", _shared),),
    "IQ3_XS": (
        Rule("attn_v", "Q4_K", _shared),
        Rule("attn_q attn_k", "IQ3_XXS"),
        Rule("ffn_gate ffn_up", "IQ3_XXS", _between_eighths),
    ),
    "IQ3_XXS": (
        Rule("attn_v", "Q4_K", _shared),
        Rule("attn_q attn_k", "IQ2_S"),
        Rule("attn_output", "IQ3_S"),
    ),
    "Q2_K": (Rule("attn_v", "Q4_K", _shared), Rule("attn_v attn_output ffn_down", "Q3_K")),
    "Q2_K_S": (Rule("attn_v", "Q4_K", _shared), Rule("ffn_down", "Q4_K", _first_eighth)),
    "IQ2_M": _IQ2_S,
    "IQ2_S": _IQ2_S,
    "IQ2_XS": _IQ2_XS,
    "IQ2_XXS": _IQ2_XS,
    "IQ1_M": (*_IQ2_XS, Rule("attn_output", "IQ2_XXS")),
    "IQ1_S": (*_IQ2_XS, Rule("attn_output", "IQ2_XXS")),
}


def mixed_type(file_type: str, kind: str, place: Place) -> str | None:
    """The ggml type that a weight of this ``kind`` ("attn_v") gets instead of the base; None when it keeps that."""
    for rule in RULES.get(file_type, ()):
        if kind in rule.kinds.split() and rule.applies(place):
            return rule.ggml_type
    return None
