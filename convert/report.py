"""The plan of a conversion as text, for --dry-run and for the summary at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from convert.pipeline import Plan


def describe_tensors(plan: Plan) -> Iterator[str]:
    """One line per tensor: name, rows x columns, type in the checkpoint and in the file, size in the file."""
    width = max(len(tensor.name) for tensor in plan.tensors)
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.source.shape))
        types = f"{tensor.source.dtype:>4} -> {tensor.ggml_type:<6}"
        yield f"{tensor.name:<{width}}  {shape:>15}  {types}  {format_bytes(tensor.n_bytes):>10}"


def describe_totals(plan: Plan) -> str:
    """One line: architecture, number of tensors by type, parameters, bytes, bits per weight, context length."""
    types = Counter(tensor.ggml_type for tensor in plan.tensors)
    mix = ", ".join(f"{n} {name}" for name, n in types.most_common())
    return (
        f"{plan.hparams.architecture} {plan.file_type.name}: {len(plan.tensors)} tensors ({mix}), "
        f"{_format_count(plan.n_params)} parameters, {format_bytes(plan.n_bytes)}, {plan.bits_per_weight:.2f} bits per "
        f"weight, context length {plan.hparams.n_ctx_train}"
    )


def format_bytes(n: int) -> str:
    """A size as people read it: 512 B, 1.5 KiB, 4.21 GiB."""
    if n < 1024:
        return f"{n} B"
    for power, unit in ((3, "GiB"), (2, "MiB")):
        if n >= 1024**power:
            return f"{n / 1024**power:.2f} {unit}"
    return f"{n / 1024:.1f} KiB"


def _format_count(n: int) -> str:
    for power, unit in ((9, "B"), (6, "M")):
        if n >= 10**power:
            return f"{n / 10**power:.2f}{unit}"
    return str(n)
