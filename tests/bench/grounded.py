"""Grounded answers with and without drafts: tokens per second of whole replies and of their grounded part.

    python tests/bench/grounded.py                   # the embedded model, and an 8B shape (5.1 GB, written and deleted)
    python tests/bench/grounded.py --layers 4        # a quick look
    python tests/bench/grounded.py --model X.gguf    # a file of yours in the place of the 8B shape

The embedded model writes replies of its own, greedily. A model of random weights would write noise: a constraint leaves
it one token at each step, those of the reply in `grounded_text.py`. Each evaluation and each choice of a token is made
as for a model that writes this reply, and drafts are right where this text lets them be.

Plain decoding and drafts take turns; figures are medians over the rounds, ratios medians of the rounds' ratios. Prompts
are computed before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import grounded_text  # noqa: E402

from commandr_gguf import CommandR, SamplingParams, generate  # noqa: E402
from commandr_gguf.demo.evaluate import held_out, request  # noqa: E402
from commandr_gguf.drafting.chain import Chain  # noqa: E402
from commandr_gguf.drafting.drafter import Drafter  # noqa: E402
from commandr_gguf.drafting.lookup import PromptLookup  # noqa: E402
from commandr_gguf.drafting.replay import AnswerReplay  # noqa: E402

MARK = "Grounded answer:"
ROWS = (1, 2, 3, 4, 6, 8, 10, 12, 15)
MakeDrafter = Callable[[CommandR, int], "Drafter | None"]
"""From the model and the number of tokens in the prompt."""

WAYS: dict[str, MakeDrafter] = {
    "plain": lambda _model, _n: None,
    "replay": lambda model, n: AnswerReplay(model.tokenizer, n),
    "replay and lookup": lambda model, n: Chain([AnswerReplay(model.tokenizer, n), PromptLookup()]),
}


class Transcript:
    """A constraint that leaves one token at each step, and samples it all the same."""

    done = False

    def __init__(self, n_vocab: int, tokens: Sequence[int]) -> None:
        self._words = np.zeros((n_vocab + 31) // 32, np.uint32)
        self._left = iter(tokens)
        self._next = next(self._left)

    def mask(self) -> npt.NDArray[np.uint32]:
        """The next token's bit alone."""
        self._words[:] = 0
        self._words[self._next // 32] = np.uint32(1) << np.uint32(self._next % 32)
        return self._words

    def accept(self, _token: int) -> None:
        """On to the next token."""
        self._next = next(self._left, self._next)

    def forced(self) -> list[int]:
        """Nothing: every token is to be computed."""
        return []

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """All: what a draft gets wrong is to be computed, too."""
        return len(tokens)

    def lookahead(self, _tokens: Sequence[int], _n_most: int) -> None:
        """Nothing: what a free reply computes is to be computed."""


@dataclass(frozen=True)
class Task:
    """A prompt and, where the model is to write it, the reply."""

    prompt: list[int]
    reply: list[int] | None = None


@dataclass(frozen=True)
class Run:
    """One reply."""

    tokens: int
    seconds: float
    grounded_tokens: int
    """0 for a reply without a grounded part."""
    grounded_seconds: float
    evaluations: int
    drafted: int
    accepted: int


def run(model: CommandR, task: Task, make: MakeDrafter, max_tokens: int) -> Run:
    """Write one reply. Clocks start behind the first token, so that the prompt does not count."""
    constraint = None if task.reply is None else Transcript(model.model.hparams.n_vocab, task.reply)
    model.session.eval(task.prompt)
    stream = generate(
        model.session,
        model.tokenizer,
        task.prompt,
        max_tokens=max_tokens if task.reply is None else len(task.reply),
        sampling=SamplingParams(temperature=0),
        constraint=constraint,
        drafter=make(model, len(task.prompt)),
        stream=True,
    )
    began = at = time.perf_counter()
    n_first = n_at = 0
    for piece in stream:
        now = time.perf_counter()
        if n_first == 0:
            began, n_first = now, len(stream.result.tokens)
        if n_at == 0 and MARK in stream.result.text:
            at, n_at = now, len(stream.result.tokens)
        if piece.finish_reason is not None:
            break
    ended = time.perf_counter()
    result = stream.result
    return Run(
        tokens=len(result.tokens) - n_first,
        seconds=ended - began,
        grounded_tokens=len(result.tokens) - n_at if n_at else 0,
        grounded_seconds=ended - at if n_at else 0.0,
        evaluations=result.timings.decode_evaluations,
        drafted=result.usage.drafted_tokens,
        accepted=result.usage.accepted_tokens,
    )


def total(runs: Sequence[Run]) -> Run:
    """The sums."""
    return Run(*(sum(getattr(run, name) for run in runs) for name in Run.__dataclass_fields__))


def measure(model: CommandR, tasks: Sequence[Task], rounds: int, max_tokens: int) -> dict[str, list[Run]]:
    """Way -> the sum of its replies, one a round; all ways take turns with each reply."""
    found: dict[str, list[Run]] = {way: [] for way in WAYS}
    for i in range(-1, rounds):  # the first round warms up
        runs: dict[str, list[Run]] = {way: [] for way in WAYS}
        for j, task in enumerate(tasks):
            names = list(WAYS)
            shift = (i + j) % len(names)
            for way in names[shift:] + names[:shift]:
                runs[way].append(run(model, task, WAYS[way], max_tokens))
        if i >= 0:
            for way, values in runs.items():
                found[way].append(total(values))
            print(f"round {i + 1}: {[round(found[way][-1].seconds, 2) for way in WAYS]} s", file=sys.stderr)
    return found


def row_costs(model: CommandR, prompt: Sequence[int], rounds: int) -> dict[int, float]:
    """Seconds of evaluations of so many tokens, each with its logits, behind the prompt; medians."""
    n_max = model.session.n_draft_max + 1
    seconds: dict[int, list[float]] = {n: [] for n in ROWS if n <= n_max}
    for _ in range(max(3, rounds)):
        for n, values in seconds.items():
            model.session.eval(prompt)
            began = time.perf_counter()
            model.session.eval([*prompt, *prompt[:n]], n_outputs=n)
            values.append(time.perf_counter() - began)
    return {n: statistics.median(values) for n, values in seconds.items()}


def report(name: str, found: dict[str, list[Run]], costs: dict[int, float]) -> dict[str, Any]:
    """Print the figures in Markdown and return them."""
    print(f"\n## {name}\n")
    print("| | whole reply, tokens/s | ratio | grounded part, tokens/s | ratio | tokens an evaluation | accepted |")
    print("|---|---|---|---|---|---|---|")
    figures: dict[str, Any] = {"row_costs": costs}
    plain = found["plain"]
    for way, runs in found.items():
        last = runs[-1]
        whole = [entry.tokens / entry.seconds for entry in runs]
        part = [entry.grounded_tokens / max(entry.grounded_seconds, 1e-9) for entry in runs]
        whole_plain = [entry.tokens / entry.seconds for entry in plain]
        part_plain = [entry.grounded_tokens / max(entry.grounded_seconds, 1e-9) for entry in plain]
        entry = {
            "tokens_per_second": statistics.median(whole),
            "ratio": statistics.median(a / b for a, b in zip(whole, whole_plain, strict=True)),
            "grounded_tokens_per_second": statistics.median(part),
            "grounded_ratio": statistics.median(a / max(b, 1e-9) for a, b in zip(part, part_plain, strict=True)),
            "tokens_per_evaluation": last.tokens / max(1, last.evaluations),
            "accepted": last.accepted / max(1, last.drafted),
            "drafted_tokens": last.drafted,
            "tokens": last.tokens,
            "grounded_tokens": last.grounded_tokens,
        }
        figures[way] = entry
        print(
            f"| {way} | {entry['tokens_per_second']:.2f} | {entry['ratio']:.2f} | "
            f"{entry['grounded_tokens_per_second']:.2f} | {entry['grounded_ratio']:.2f} | "
            f"{entry['tokens_per_evaluation']:.2f} | {last.accepted} of {last.drafted} |"
        )
    one = costs[1]
    most = max(n * one / seconds for n, seconds in costs.items())
    print(f"\n{plain[-1].tokens} tokens, {plain[-1].grounded_tokens} of them in the grounded part.")
    print("Cost of an evaluation of n tokens, in evaluations of one:", end=" ")
    print(", ".join(f"{n}: {seconds / one:.2f}" for n, seconds in costs.items()) + f"; one takes {1e3 * one:.1f} ms.")
    print(f"Were every draft right, {most:.2f} times the speed would be the limit: the rest is what drafts get wrong.")
    return figures


def demo_tasks(model: CommandR, count: int) -> Iterator[Task]:
    """Held-out prompts of the embedded model."""
    for example in held_out("accurate", count, seed=1):
        yield Task(model.prompt(**request(example)).tokens)


def fixed_task(model: CommandR) -> Task:
    """The fixed prompt and reply in the tokens of a model."""
    prompt = model.prompt(grounded_text.MESSAGES, documents=grounded_text.DOCUMENTS).tokens
    return Task(prompt, model.tokenize(grounded_text.REPLY))


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure grounded answers with and without drafts.")
    parser.add_argument("--model", type=Path, help="a GGUF file; without it one is written and deleted")
    parser.add_argument("--layers", type=int, help="layers of the file that is written (default: 32)")
    parser.add_argument("--type", default="Q4_K_M", help="type of the file that is written")
    parser.add_argument("--no-repack", action="store_true", help="compute with the weights as they are in the file")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--demo-count", type=int, default=20, help="replies of the embedded model; 0 leaves it out")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    if options.demo_count:
        with CommandR.demo(n_ctx=1024, n_threads=1) as model:
            tasks = list(demo_tasks(model, options.demo_count))
            found = measure(model, tasks, options.rounds, max_tokens=256)
            figures["demo"] = report("the embedded model", found, row_costs(model, tasks[0].prompt, options.rounds))
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/var/tmp")) as folder:
        path = options.model
        if path is None:
            import write_model

            path = Path(folder) / "model.gguf"
            write_model.write_model(path, recipe=options.type, n_layers=options.layers)
        repack = not options.no_repack
        with CommandR(path, n_ctx=8192, n_threads=options.threads, repack=repack) as model:
            task = fixed_task(model)
            print(f"prompt: {len(task.prompt)} tokens, reply: {len(task.reply or ())}", file=sys.stderr)
            found = measure(model, [task], options.rounds, max_tokens=0)
            costs = row_costs(model, task.prompt, options.rounds)
            name = f"{path.stat().st_size / 1e9:.2f} GB, {options.threads} threads, {options.rounds} rounds"
            figures["fixed"] = report(name, found, costs)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
