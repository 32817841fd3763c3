"""How far, in mean KL divergence (nats), the logits of a file may be from what they should be.

The models are random and small, which makes them more sensitive to rounding than trained ones are. The bounds are half
as much again as what was measured for v01 and gqa, whose four layers feel it most; cohere2 has eight.
"""

from __future__ import annotations

# From transformers: what the rounding of the weights costs.
_FROM_TRANSFORMERS = {
    "F16": 3e-6,
    "BF16": 1.5e-4,
    "Q8_0": 4.5e-3,
    "Q6_K": 3e-2,
    "Q5_K_M": 7.5e-2,
    "Q5_K_S": 7.5e-2,
    "Q4_K": 0.23,
    "Q4_K_S": 0.23,
    "Q4_0": 0.32,
    "IQ4_XS": 0.29,
    "Q3_K_M": 0.65,
    "Q2_K": 1.8,
}
FILE_TYPES = tuple(_FROM_TRANSFORMERS)
# From the file's own weights in float64: what the rounding of the activations in ggml's products costs.
_FROM_OWN_WEIGHTS = {"F16": 3e-6, "BF16": 1.6e-4, "Q8_0": 2.5e-3}
_FROM_OWN_WEIGHTS_IN_K_QUANTS = 5e-3
_SHAPE_FACTOR = {"cohere2": 2.6}


def from_transformers(shape: str, file_type: str) -> float:
    """The bound against logits of the checkpoint's weights."""
    return _FROM_TRANSFORMERS[file_type] * _SHAPE_FACTOR.get(shape, 1.0)


def from_own_weights(shape: str, file_type: str) -> float:
    """The bound against logits of the numpy model with the file's weights."""
    bound = _FROM_OWN_WEIGHTS.get(file_type, _FROM_OWN_WEIGHTS_IN_K_QUANTS)
    return bound * _SHAPE_FACTOR.get(shape, 1.0)
