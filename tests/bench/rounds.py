"""Measuring several programs with one file: all are loaded, and take turns with every step.

What else the machine does then strikes all of them, and the machine itself, which is measured in turns with them.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from programs import Worker

PROMPT = 512
COLUMNS = 4
DECODE_STEP = 8
MACHINE = "machine"


@dataclass(frozen=True)
class Machine:
    """Measurements of what the machine allows, see roofline.py."""

    read: Callable[[], float]
    arithmetic: Callable[[], float]


def _no_values() -> defaultdict[str, dict[str, list[float]]]:
    return defaultdict(dict)


@dataclass
class Figures:
    """Of one part of the comparison."""

    values: defaultdict[str, dict[str, list[float]]] = field(default_factory=_no_values)
    """Measure -> program, or MACHINE -> one value a round. Measures:

    prefill          tokens/s; the machine's multiply-adds/s
    decode CONTEXT   tokens/s behind CONTEXT others; the bytes/s that the machine reads
    verify           the time of COLUMNS tokens in that of one; `verify reading`, `verify arithmetic`: the machine's
    load, memory, peak   seconds, bytes resident after loading and at most; one value
    """
    builds: dict[str, str] = field(default_factory=dict)
    """What each program says about how it was built."""

    def add(self, measure: str, program: str, value: float) -> None:
        """One more round."""
        self.values[measure].setdefault(program, []).append(value)


def contexts(measures: Sequence[str]) -> list[int]:
    """Those of the decode measures, the longest first."""
    return sorted((int(m.split()[1]) for m in measures if m.startswith("decode ")), reverse=True)


def measure_all(workers: Sequence[Worker], measures: Sequence[str], n_rounds: int, machine: Machine) -> Figures:
    """Load the programs, then measure what is asked for."""
    figures = Figures()
    for worker in workers:
        answer = worker("load")
        figures.builds[worker.program.name] = answer["features"]
        figures.add("load", worker.program.name, answer["seconds"])
        figures.add("memory", worker.program.name, answer["own"] + answer["file"])
    for context in contexts(measures):
        _decode(workers, context, n_rounds, machine, figures)
    if "verify" in measures:
        _verify(workers, n_rounds, machine, figures)
    if "prefill" in measures:
        _prefill(workers, n_rounds, machine, figures)
    for worker in workers:
        figures.add("peak", worker.program.name, worker("memory")["peak"])
    return figures


def _turns(workers: Sequence[Worker], i: int) -> list[Worker]:
    """The programs, in the order of round i."""
    return list(workers) if i % 2 == 0 else list(reversed(workers))


def _decode(workers: Sequence[Worker], context: int, n_rounds: int, machine: Machine, figures: Figures) -> None:
    for worker in workers:
        worker(f"prefill {context}")
        worker("decode 2")
    tokens: dict[str, list[int]] = defaultdict(list)
    for i in range(n_rounds):
        for worker in _turns(workers, i):
            answer = worker(f"decode {DECODE_STEP}")
            figures.add(f"decode {context}", worker.program.name, DECODE_STEP / answer["seconds"])
            tokens[worker.program.name] += answer["tokens"]
        figures.add(f"decode {context}", MACHINE, machine.read())
    _say(f"decode {context}", figures)
    ours, *others = tokens
    for other in (name for name in others if name.startswith("llama.cpp")):  # with the same weights
        n_same = sum(a == b for a, b in zip(tokens[ours], tokens[other], strict=True))
        print(f"  {n_same} of {len(tokens[ours])} tokens are those of {other}", file=sys.stderr)


def _verify(workers: Sequence[Worker], n_rounds: int, machine: Machine, figures: Figures) -> None:
    for worker in workers:
        worker("prefill 128")
        worker(f"columns {COLUMNS}")
    for i in range(4 * n_rounds):  # they are short
        for worker in _turns(workers, i):
            one, several = (worker(f"columns {n}")["seconds"] for n in (1, COLUMNS))
            figures.add("verify", worker.program.name, several / one)
    figures.add("verify reading", MACHINE, machine.read())
    figures.add("verify arithmetic", MACHINE, machine.arithmetic())
    _say("verify", figures)


def _prefill(workers: Sequence[Worker], n_rounds: int, machine: Machine, figures: Figures) -> None:
    for worker in workers:
        worker(f"prefill {PROMPT}")
    for i in range(n_rounds):
        for worker in _turns(workers, i):
            figures.add("prefill", worker.program.name, PROMPT / worker(f"prefill {PROMPT}")["seconds"])
        figures.add("prefill", MACHINE, machine.arithmetic())
    _say("prefill", figures)


def _say(measure: str, figures: Figures) -> None:
    for program, values in figures.values[measure].items():
        print(f"  {measure}, {program}: {' '.join(f'{value:.4g}' for value in values)}", file=sys.stderr)
