"""Numbers for people and for programs."""

from __future__ import annotations

import dataclasses

from commandr_gguf.usage import Timings


def size(n_bytes: float) -> str:
    """Such as "1.50 GiB"."""
    value, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"


def count(n: int, noun: str) -> str:
    """Such as "1 file" and "2 files"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def shorten(text: str, length: int) -> str:
    """`text` on one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def timings_dict(timings: Timings) -> dict[str, float]:
    """Timings with the speeds that follow from them, by name."""
    return dataclasses.asdict(timings) | {
        "prefill_tokens_per_second": timings.prefill_tokens_per_second,
        "decode_tokens_per_second": timings.decode_tokens_per_second,
    }
