"""The scores of an evaluation as JSON, and as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import gguf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from commandr_gguf.command_r import CommandR
from commandr_gguf.demo.data.example import TASKS, Example
from commandr_gguf.demo.scoring import Reply, Score, Scores
from commandr_gguf.printable import printable

Report = dict[str, Any]
"""JSON values; rates and bounds are from 0 to 1."""


def describe(scores: Scores) -> Report:
    """The scores, the speed and how many replies were cut."""
    return {
        "scores": [_describe_score(score) for score in scores.scores],
        "cut_replies": scores.n_cut,
        "speed": asdict(scores.speed),
    }


def _describe_score(score: Score) -> Report:
    return {
        "name": score.metric.name,
        "title": score.metric.title,
        "tasks": score.tasks,
        "right": score.right,
        "count": score.count,
        "rate": score.rate,
        "interval": score.interval,
        "target": score.metric.target,
        "reached": score.reached,
    }


def describe_errors(scores: Scores, count: int, render: Callable[[Example], str]) -> list[Report]:
    """The first `count` wrong replies of each task, with the prompts that `render` gives."""
    by_task = ([reply for reply in scores.wrong if reply.example.task == task] for task in TASKS)
    return [_describe_error(reply, render) for wrong in by_task for reply in wrong[:count]]


def _describe_error(reply: Reply, render: Callable[[Example], str]) -> Report:
    return {
        "task": reply.example.task,
        "wrong": [name for name, right in reply.checks.items() if not right],
        "prompt": render(reply.example),
        "expected": reply.example.reply,
        "actual": reply.generation.text,
    }


def file_type(model: CommandR) -> str:
    """What the weights of a file mostly are, such as "Q4_K_M"."""
    number = model.model.gguf.get("general.file_type")
    known: dict[Any, str] = {kind.value: kind.name for kind in gguf.LlamaFileType}
    return known.get(number, "unknown").removeprefix("MOSTLY_").removeprefix("ALL_")


def print_scores(console: Console, report: Report) -> None:
    """Print what `describe` gives."""
    table = Table(box=None, pad_edge=False)
    for column in ("score", "task", "right", "count", "95% interval", "target", ""):
        table.add_column(column, justify="left" if column in {"score", "task", ""} else "right", no_wrap=True)
    for score in report["scores"]:
        low, high = (f"{100 * bound:.1f}" for bound in score["interval"])
        table.add_row(
            score["title"],
            {1: score["tasks"][0], 2: "both"}.get(len(score["tasks"]), "all"),
            f"{100 * score['rate']:.1f}%",
            str(score["count"]),
            f"{low}-{high}",
            "" if score["target"] is None else f"{100 * score['target']:.0f}%",
            {None: Text(), True: Text("reached", "green"), False: Text("missed", "red")}[score["reached"]],
        )
    console.print(table)
    if report["cut_replies"]:
        console.print(f"{report['cut_replies']} replies did not end by themselves")
    speed = report["speed"]
    console.print(
        f"prefill {speed['prefill_tokens_per_second']:.0f} tokens/s, "
        f"decode {speed['decode_tokens_per_second']:.0f} tokens/s, {speed['prompts_per_second']:.1f} prompts/s"
    )


def print_errors(console: Console, errors: Iterable[Report]) -> None:
    """Print what `describe_errors` gives."""
    for error in errors:
        console.print(Text(f"{error['task']}: wrong in {', '.join(error['wrong'])}", "bold"))
        for name in ("prompt", "expected", "actual"):
            console.print(Text(f"{name}:", "dim"))
            for line in printable(error[name]).split("\n"):
                console.print(Text(f"    {line}".rstrip()), soft_wrap=True)
        console.print()
