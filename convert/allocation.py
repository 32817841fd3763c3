"""The best use of a number of bytes: one option for each item, at the least total cost; pure.

Options on the lower convex hull of cost over size are taken in the order of what they save per byte, which is optimal
for the sizes reached on the way (Lagrange). What is then left is used up by moves to other options, alone or in pairs
(one item larger, another smaller), as long as one lowers the cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_MAX_MOVES = 1000  # each lowers the cost; a handful is usual


@dataclass(frozen=True)
class Option:
    """One way to store an item."""

    n_bytes: int
    cost: float


def smallest(items: Sequence[Sequence[Option]]) -> int:
    """The fewest bytes that all items fit in."""
    return sum(min(option.n_bytes for option in options) for options in items)


def allocate(items: Sequence[Sequence[Option]], budget: int) -> list[int]:
    """The index of the option taken for each item; together they have at most ``budget`` bytes.

    Equal inputs give equal results. Raises ValueError when not even the smallest options fit.
    """
    hulls = [_hull(options) for options in items]
    chosen = [hull[0] for hull in hulls]
    left = budget - sum(options[i].n_bytes for options, i in zip(items, chosen, strict=True))
    if left < 0:
        raise ValueError(f"{smallest(items)} bytes are the least, and there are {budget}")
    stopped: set[int] = set()
    for _, item, step in sorted(_upgrades(items, hulls)):
        before, after = (items[item][i] for i in hulls[item][step : step + 2])
        if item in stopped or after.n_bytes - before.n_bytes > left:
            stopped.add(item)
            continue
        chosen[item] = hulls[item][step + 1]
        left -= after.n_bytes - before.n_bytes
    for _ in range(_MAX_MOVES):
        moves = _best_moves(items, chosen, left)
        if not moves:
            break
        for item, option in moves:
            left += items[item][chosen[item]].n_bytes - items[item][option].n_bytes
            chosen[item] = option
    return chosen


def _hull(options: Sequence[Option]) -> list[int]:
    """Indices on the lower convex hull, from the fewest bytes to the least cost."""
    hull: list[int] = []
    for i in sorted(range(len(options)), key=lambda i: (options[i].n_bytes, options[i].cost, i)):
        if hull and options[i].cost >= options[hull[-1]].cost:
            continue
        while len(hull) >= 2 and _slope(options, hull[-2], hull[-1]) >= _slope(options, hull[-2], i):
            hull.pop()
        hull.append(i)
    return hull


def _slope(options: Sequence[Option], a: int, b: int) -> float:
    """Cost per byte on the way from one option to a larger one: negative."""
    return (options[b].cost - options[a].cost) / (options[b].n_bytes - options[a].n_bytes)


def _upgrades(items: Sequence[Sequence[Option]], hulls: Sequence[Sequence[int]]) -> Iterator[tuple[float, int, int]]:
    """(slope, item, step of its hull); slopes rise along a hull, so that sorted steps keep their order."""
    for item, (options, hull) in enumerate(zip(items, hulls, strict=True)):
        for step in range(len(hull) - 1):
            yield _slope(options, hull[step], hull[step + 1]), item, step


def _best_moves(items: Sequence[Sequence[Option]], chosen: Sequence[int], left: int) -> list[tuple[int, int]]:
    """The one or two moves (item, option) that lower the cost most and fit in the bytes that are left; [] for none."""
    now = [options[i] for options, i in zip(items, chosen, strict=True)]
    moves = [(item, i) for item, options in enumerate(items) for i in range(len(options)) if i != chosen[item]]
    if not moves:
        return []
    owner = np.array([item for item, _ in moves])
    grown = np.array([items[item][i].n_bytes - now[item].n_bytes for item, i in moves])
    gained = np.array([items[item][i].cost - now[item].cost for item, i in moves])
    # Sums of costs are rounded: what gains less than this is no gain, and moving to and fro would never end.
    best, found = -1e-12 * sum(option.cost for option in now), []
    alone = np.where(grown <= left, gained, np.inf)
    if alone.min() < best:
        best, found = float(alone.min()), [moves[int(alone.argmin())]]
    for first in np.flatnonzero(gained < 0):
        together = np.where((owner != owner[first]) & (grown + grown[first] <= left), gained + gained[first], np.inf)
        if together.min() < best:
            best, found = float(together.min()), [moves[first], moves[int(together.argmin())]]
    return found
