"""Plans that would round values a second time, when the input is quantized already."""

from __future__ import annotations

from convert.errors import ArgumentError
from convert.plan import Plan
from convert.shard import DTYPES


def check_requantized(plan: Plan, *, allowed: bool) -> list[str]:
    """Notes on the tensors that are quantized in the input and get another type or other values.

    A tensor that keeps its type is copied and no concern. Raises ArgumentError, as llama.cpp's quantizer does, unless
    ``allowed``: from 4 bits to 4 other bits, a model loses twice.
    """
    again = [
        tensor
        for tensor in plan.tensors
        if tensor.source.dtype not in DTYPES and (tensor.ggml_type != tensor.source.dtype or tensor.delta is not None)
    ]
    if not again:
        return []
    first = again[0]
    what = f"{len(again)} tensors are quantized already, such as {first.name} ({first.source.dtype})"
    if not allowed:
        raise ArgumentError(
            f"{first.source.path}: {what}: convert the original, or give --allow-requantize to round them once more"
        )
    return [f"{what}: they are rounded once more"]
