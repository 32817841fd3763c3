"""What the masks of constrained decoding cost a token, on the real vocabulary: `python tests/bench/mask.py`.

Right replies are walked through token by token, each with a new constraint: the mask of every token is computed and the
token accepted, as decoding does. Forced tokens need no mask when decoding; here they have one, so the figures are above
what a reply costs. Of the others, which are sampled, those are counted before which the mask allows so few tokens that
their logits are computed alone. `--decode` is the time of a model for one token, against which the masks are held.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import constraints
from commandr_gguf.chat.grammars import grounded_grammar, tools_grammar
from commandr_gguf.chat.tools import normalize_tools
from commandr_gguf.constraint import ConstraintEngine
from commandr_gguf.demo.data.example import Example, Task
from commandr_gguf.demo.data.source import Source

MOST_GROUPS = 128
"""Groups of 16 tokens up to which logits are computed alone: COMMANDR_HEAD_MANY in native/src/head.h."""
TASKS: tuple[Task, ...] = ("tools", "accurate", "fast")
# Answers as long as those of large models: paragraphs, a list, code, and many citations.
LONG_DOCUMENTS = 20
LONG_ANSWER = "\n\n".join(
    f"Paragraph {i} says that <co: {i}>the bridge was opened in {1900 + i}</co: {i}>, and that "
    f"<co: {i},{i + 1}>its length is {i}.5 km</co: {i},{i + 1}>.\n- Use `<code>` when x < {i}.\n- \u4eca\u65e5\u306f."
    for i in range(LONG_DOCUMENTS - 1)
)


@dataclass
class Figures:
    """Seconds of one kind of reply."""

    n_tokens: int = 0
    n_forced: int = 0
    """Tokens that the grammar forced."""
    n_few: int = 0
    """Tokens before which a mask allowed few, forced ones left out."""
    compiles: list[float] = field(default_factory=list)
    """Per reply: the grammar's text, the parser's tables."""
    masks: list[float] = field(default_factory=list)
    """Per token: the mask and the step behind the token."""


def long_reply() -> str:
    """A grounded reply of a few thousand tokens."""
    numbers = ",".join(map(str, range(LONG_DOCUMENTS)))
    plain = LONG_ANSWER
    for i in range(LONG_DOCUMENTS):
        for tag in (f"<co: {i}>", f"</co: {i}>", f"<co: {i},{i + 1}>", f"</co: {i},{i + 1}>"):
            plain = plain.replace(tag, "")
    head = f"Relevant Documents: {numbers}\nCited Documents: {numbers}\n"
    return f"{head}Answer: {plain}\nGrounded answer: {LONG_ANSWER}"


def grammar_of(example: Example) -> str:
    """The grammar for the reply of an example."""
    if example.task == "tools":
        return tools_grammar(normalize_tools(example.tools))
    return grounded_grammar(len(example.documents), example.citation_mode)


def measure(
    engine: ConstraintEngine, replies: Iterable[tuple[Callable[[], str], str]], clock: Callable[[], float]
) -> Figures:
    """Walk through replies, each with what makes its grammar."""
    tokenizer = constraints.tokenizer("real")
    figures = Figures()
    for make_grammar, reply in replies:
        begin = clock()
        constraint = engine.constraint(make_grammar())
        figures.compiles.append(clock() - begin)
        n_forced = 0
        for token in tokenizer.encode(reply):
            n_forced = n_forced or len(constraint.forced())
            begin = clock()
            mask = constraint.mask()
            constraint.accept(token)
            figures.masks.append(clock() - begin)
            allowed = mask.view(np.uint16)  # in groups of 16
            if not mask[token // 32] >> (token % 32) & 1:
                raise SystemExit(f"the grammar does not allow the reply {reply!r}")
            figures.n_tokens += 1
            figures.n_forced += n_forced > 0
            figures.n_few += int(not n_forced and np.count_nonzero(allowed) <= MOST_GROUPS)
            n_forced = max(0, n_forced - 1)
    return figures


def table(results: dict[str, Figures], decode: float) -> str:
    """Milliseconds in Markdown."""
    columns = (
        "tokens",
        "forced",
        "few / sampled",
        "grammar",
        "mask, mean",
        "median",
        "99 %",
        "mean / decode",
        "99 % / decode",
    )
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in results.items():
        masks = sorted(figures.masks)
        mean, median = statistics.fmean(masks), statistics.median(masks)
        late = masks[len(masks) * 99 // 100]
        lines.append(
            f"| {name} | {figures.n_tokens} | {figures.n_forced / figures.n_tokens:.0%} "
            f"| {figures.n_few / (figures.n_tokens - figures.n_forced):.0%} "
            f"| {1000 * statistics.median(figures.compiles):.1f} ms | {1000 * mean:.3f} ms | {1000 * median:.3f} ms "
            f"| {1000 * late:.3f} ms | {mean / decode:.2%} | {late / decode:.2%} |"
        )
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure the masks of constrained decoding.")
    parser.add_argument("--replies", type=int, default=100, help="of each kind (default: 100)")
    parser.add_argument(
        "--decode", type=float, default=180, help="ms a token of the model (default: 180, an 8B Q4_K_M)"
    )
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time instead of the clock's")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    engine = constraints.engine("real")
    constraints.tokenizer("real").encode("merges are read now")
    begin = clock()
    engine.constraint('start: "a"')
    print(f"the vocabulary's tables: {clock() - begin:.2f} s, once a model\n")
    results: dict[str, Figures] = {}
    for task in TASKS:
        examples = Source("test", 1).examples(task, options.replies)
        replies = [(lambda example=example: grammar_of(example), example.reply) for example in examples]
        results[task] = measure(engine, replies, clock)
    long = [(lambda: grounded_grammar(LONG_DOCUMENTS), long_reply())]
    results[f"accurate, {LONG_DOCUMENTS} documents"] = measure(engine, long, clock)
    print(f"{'CPU' if options.cpu_time else 'wall'} time, decode {options.decode:g} ms a token\n")
    print(table(results, options.decode / 1000))
    return 0


if __name__ == "__main__":
    sys.exit(main())
