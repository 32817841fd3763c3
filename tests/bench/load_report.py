"""From the figures of server_load.py to a table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from load_servers import LLAMA_CPP, LLAMA_CPP_PYTHON, OURS

Record = dict[str, Any]
"""One row of one round of one server."""
AIMS = {LLAMA_CPP_PYTHON: 1.5, LLAMA_CPP: 1.0}
"""Of all tokens a second of 16 streams, in those of others."""
GAP_AIM = 3.0
"""The 99th percentile of gaps beside a newcomer, in the median gap without one."""


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def report(records: Sequence[Record]) -> Iterator[str]:
    """Lines of two tables."""
    yield "| streams | server | tokens/s | ours in theirs | first token p50, p99, s | between tokens p50, p99, ms |"
    yield "|---|---|---|---|---|---|"
    rows = [row for row in dict.fromkeys(record["row"] for record in records) if "newcomer" not in row]
    for row in rows:
        for server, found in _by_server(records, row):
            first = [value for record in found for value in record["first"]]
            gaps = [1000 * value for record in found for value in record["gaps"]]
            speed = statistics.median(record["tokens_per_s"] for record in found)
            yield (
                f"| {row} | {server} | {speed:.1f} | {_ratio(records, row, server)} "
                f"| {quantile(first, 0.5):.2f}, {quantile(first, 0.99):.2f} "
                f"| {quantile(gaps, 0.5):.1f}, {quantile(gaps, 0.99):.1f} |"
            )
    late = [row for row in dict.fromkeys(record["row"] for record in records) if "newcomer" in row]
    if late:
        yield ""
        yield "| beside a newcomer | server | quiet gap, ms | p99 in it | longest in it | newcomer's first token, s |"
        yield "|---|---|---|---|---|---|"
    for row in late:
        for server, found in _by_server(records, row):
            quiet = [statistics.median(record["quiet"]) for record in found]
            p99 = statistics.median(_gap_ratios(found, lambda gaps: quantile(gaps, 0.99)))
            longest = statistics.median(_gap_ratios(found, max))
            missed = ", **missed**" if server == OURS and p99 > GAP_AIM else ""
            first = statistics.median(record["first"][0] for record in found)
            yield (
                f"| {row.split()[-1]} | {server} | {1000 * statistics.median(quiet):.0f} "
                f"| {p99:.2f}{missed} | {longest:.2f} | {first:.1f} |"
            )


def _by_server(records: Sequence[Record], row: str) -> Iterator[tuple[str, list[Record]]]:
    for server in (OURS, LLAMA_CPP, LLAMA_CPP_PYTHON):
        found = [record for record in records if record["row"] == row and record["server"] == server]
        if found:
            yield server, found


def _ratio(records: Sequence[Record], row: str, other: str) -> str:
    """Our tokens a second in another server's, round by round."""
    speeds = {(record["server"], record["round"]): record["tokens_per_s"] for record in records if record["row"] == row}
    ratios = [
        speeds[OURS, number] / speed
        for (server, number), speed in speeds.items()
        if server == other != OURS and (OURS, number) in speeds
    ]
    if not ratios:
        return ""
    found = statistics.median(ratios)
    missed = ", **missed**" if row == "16" and found < AIMS[other] else ""
    return f"{found:.2f} ({min(ratios):.2f} to {max(ratios):.2f}){missed}"


def _gap_ratios(found: Sequence[Record], choose: Callable[[list[float]], float]) -> list[float]:
    return [choose(record["loaded"]) / statistics.median(record["quiet"]) for record in found]
