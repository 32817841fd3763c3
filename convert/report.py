"""The plan of a conversion as text, for --dry-run and for the summary at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from convert.plan import Plan
from convert.sizes import format_size


def describe_tensors(plan: Plan) -> Iterator[str]:
    """One line per tensor: name, rows x columns, type in the checkpoint and in the file, size in the file."""
    width = max(len(tensor.name) for tensor in plan.tensors)
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.source.shape))
        types = f"{tensor.source.dtype:>4} -> {tensor.ggml_type:<7}"
        yield f"{tensor.name:<{width}}  {shape:>15}  {types}  {format_size(tensor.n_bytes):>10}"


def describe_totals(plan: Plan) -> str:
    """One line: architecture, number of tensors by type, parameters, bytes, bits per weight, context length."""
    types = Counter(tensor.ggml_type for tensor in plan.tensors)
    mix = ", ".join(f"{n} {name}" for name, n in types.most_common())
    return (
        f"{plan.model.architecture} {plan.file_type.name}: {len(plan.tensors)} tensors ({mix}), "
        f"{_format_count(plan.model.n_params)} parameters, {format_size(plan.n_bytes)}, "
        f"{plan.bits_per_weight:.2f} bits per weight, context length {plan.model.n_ctx_train}"
    )


def _format_count(n: int) -> str:
    for power, unit in ((9, "B"), (6, "M")):
        if n >= 10**power:
            return f"{n / 10**power:.2f}{unit}"
    return str(n)
