"""Sizes as people write and read them."""

from __future__ import annotations

import re

from convert.errors import ArgumentError

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", 1)
    for suffix, base in (("", 1000), ("B", 1000), ("IB", 1024))
}


def parse_size(text: str) -> int:
    """Bytes of a size such as 20GB, 4.7GiB, 500M or 5000000. Raises ArgumentError for what is none.

    A number without a unit that is less than a million was meant to have one.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or (size := int(float(found[1]) * unit)) < (1 if found[2] else 10**6):
        raise ArgumentError(f"{text!r} is not a size such as 20GB, 4.7GiB or 500M")
    return size


def format_size(n: int) -> str:
    """512 B, 1.5 KiB, 4.21 GiB."""
    if n < 1024:
        return f"{n} B"
    for power, unit in ((3, "GiB"), (2, "MiB")):
        if n >= 1024**power:
            return f"{n / 1024**power:.2f} {unit}"
    return f"{n / 1024:.1f} KiB"
