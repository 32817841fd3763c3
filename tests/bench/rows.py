"""The rows of compare_llama_cpp.py's table: figures beside what was aimed at and what the machine allows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from programs import OURS
from roofline import Need
from rounds import COLUMNS, MACHINE, Figures, contexts


@dataclass(frozen=True)
class Target:
    """What a result shall be."""

    wanted: float
    stretch: float
    at_most: bool = False

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        return f"{sign} {self.wanted:g}" + (f" ({self.stretch:g})" if self.stretch != self.wanted else "")

    def verdict(self, value: float) -> str:
        """Whether a value is good enough."""
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.stretch:
            return "yes"
        return "yes, not the stretch" if sign * value >= sign * self.wanted else "no"


PREFILL = {"amx": Target(3, 6), "avx512": Target(2.5, 3.5), "avx2": Target(1.5, 2)}  # of llama.cpp's speed
SHARE = Target(0.8, 0.9)  # of the bandwidth
VERIFY = Target(1.25, 1.25, at_most=True)  # of one column's time
MEMORY = Target(1.1, 1.1, at_most=True)  # of the file's size
SMALL_PREFILL = Target(1.5, 1.5)  # of transformers' speed with AMX
SMALL_DECODE = Target(2, 2)  # of llama.cpp's speed


@dataclass(frozen=True)
class Part:
    """One file, and the programs and measures that it is for."""

    file: str
    """Such as "8b Q4_K_M"."""
    level: str
    measures: tuple[str, ...]

    @property
    def small(self) -> bool:
        """Whether it is the shape that is compared with transformers."""
        return self.file.startswith("1b")

    def row_name(self, measure: str) -> str:
        """What --rows looks at."""
        return f"{self.file} {measure}" + (f" {self.level}" if measure == "prefill" else "")


def median(figures: Figures, measure: str, program: str) -> float:
    return statistics.median(figures.values[measure][program])


def ratio(figures: Figures, measure: str, one: str, other: str) -> float:
    """Median of the rounds' ratios."""
    values = figures.values[measure]
    return statistics.median(a / b for a, b in zip(values[one], values[other], strict=True))


def best_rivals(figures: Figures, measure: str, *, least: bool = False) -> list[str]:
    """Of each other program the build with the best median."""
    families: dict[str, list[str]] = {}
    for name in figures.values[measure].keys() - {OURS, MACHINE}:
        families.setdefault(name.split(",")[0], []).append(name)
    pick = min if least else max
    return [pick(names, key=lambda name: median(figures, measure, name)) for _, names in sorted(families.items())]


def row(name: str, ours: str, theirs: str, result: float, target: Target | None, limit: str) -> str:
    """One line of the table."""
    met = target.verdict(result) if target else ""
    return f"| {name} | {ours} | {theirs} | {result:.2f} | {target or ''} | {met} | {limit} |"


HEADER = "| | commandr-gguf | other | result | target (stretch) | met | limit |\n|---|---|---|---|---|---|---|"


def rows(part: Part, figures: Figures, need: Need, file_size: int, n_ctx: int) -> Iterator[str]:
    """All lines of a part, whose programs have room for n_ctx tokens."""
    if "prefill" in part.measures:
        yield from _prefill(part, figures, need)
    for context in contexts(part.measures):
        yield from _decode(part, figures, need, context)
    if "verify" in part.measures:
        yield from _verify(part, figures, need)
    if "memory" in part.measures:
        yield from _memory(part, figures, file_size, need.cache_bytes * n_ctx)


def _rivals(figures: Figures, measure: str, *, least: bool = False) -> Iterator[tuple[str, str, float]]:
    """Name, text and ratio of each."""
    for rival in best_rivals(figures, measure, least=least):
        yield rival, f"{median(figures, measure, rival):.2f} ({rival})", ratio(figures, measure, OURS, rival)


def _prefill(part: Part, figures: Figures, need: Need) -> Iterator[str]:
    ours, peak = median(figures, "prefill", OURS), median(figures, "prefill", MACHINE)
    limit = "arithmetic, whose peak was not measured"
    if peak:
        allowed = peak / need.layer_weights
        limit = (
            f"arithmetic: {peak / 1e9:.0f} G {part.level} multiply-adds/s, {allowed:.1f} tokens/s; {ours / allowed:.0%}"
        )
    for rival, text, result in _rivals(figures, "prefill"):
        target = None if part.small else PREFILL.get(part.level)
        if part.small and rival.startswith("transformers") and part.level == "amx":
            target = SMALL_PREFILL
        yield row(f"{part.row_name('prefill')}, tokens/s", f"{ours:.2f}", text, result, target, limit)


def _decode(part: Part, figures: Figures, need: Need, context: int) -> Iterator[str]:
    measure = f"decode {context}"
    name, ours, read = part.row_name(measure), median(figures, measure, OURS), median(figures, measure, MACHINE)
    n_bytes = need.decode_bytes(context)
    share = ratio(figures, measure, OURS, MACHINE) * n_bytes
    limit = f"reading: {n_bytes / 1e9:.2f} GB at {read / 1e9:.1f} GB/s, {read / n_bytes:.2f} tokens/s; {share:.0%}"
    if not part.small:
        yield row(f"{name}, GB/s", f"{ours * n_bytes / 1e9:.1f}", f"{read / 1e9:.1f} (bandwidth)", share, SHARE, limit)
    for rival, text, result in _rivals(figures, measure):
        target = SMALL_DECODE if part.small and rival.startswith("llama.cpp") else None
        yield row(f"{name}, tokens/s", f"{ours:.2f}", text, result, target, limit)


def _verify(part: Part, figures: Figures, need: Need) -> Iterator[str]:
    ours = median(figures, "verify", OURS)
    others = "; ".join(f"{median(figures, 'verify', r):.2f} ({r})" for r in best_rivals(figures, "verify", least=True))
    read, peak = (median(figures, "verify " + what, MACHINE) for what in ("reading", "arithmetic"))
    limit = "reading, once for all columns: 1.00"
    if peak:
        share = COLUMNS * (need.layer_weights + need.head_weights) / peak / (need.weight_bytes / read)
        limit += f"; arithmetic: {share:.2f}"
    yield row(f"{part.row_name('verify')}, {COLUMNS} columns / 1", f"{ours:.2f}", others, ours, VERIFY, limit)


def _memory(part: Part, figures: Figures, file_size: int, cache: int) -> Iterator[str]:
    limit = f"one copy of the file: {file_size / 2**30:.2f}; KV cache apart: {cache / 2**30:.2f}"
    for measure, text, target in (("memory", "resident after loading", MEMORY), ("peak", "resident at most", None)):
        rivals = best_rivals(figures, measure, least=True)
        others = "; ".join(f"{(median(figures, measure, rival) - cache) / 2**30:.2f} ({rival})" for rival in rivals)
        ours = median(figures, measure, OURS) - cache
        name = f"{part.row_name('memory')}, {text}, GiB"
        yield row(name, f"{ours / 2**30:.2f}", others, ours / file_size, target, limit)
    for _, text, result in _rivals(figures, "load", least=True):
        load = f"{median(figures, 'load', OURS):.2f}"
        yield row(f"{part.file} load, s", load, text, result, None, "copying the weights into their packed order")
