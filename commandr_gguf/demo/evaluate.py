"""Scores a model on held-out prompts of the embedded model's tasks: `python -m commandr_gguf.demo.evaluate MODEL`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from commandr_gguf.command_r import CommandR
from commandr_gguf.demo.data.example import TASKS, Example, Task
from commandr_gguf.demo.data.source import Source
from commandr_gguf.demo.report import Report, describe, describe_errors, file_type, print_errors, print_scores
from commandr_gguf.demo.scoring import Reply, Scores, check
from commandr_gguf.errors import ArgumentError, CommandRError
from commandr_gguf.generate import Generation

MAX_TOKENS = 256
"""Where a reply is cut; the longest right ones have about 140 tokens."""

_EXAMPLES = """\
examples:
  python -m commandr_gguf.demo.evaluate "$(commandr demo --path)"
  python -m commandr_gguf.demo.evaluate demo.gguf --tasks tools,fast --count 100 --show-errors 3

exit status: 0 done, whatever the scores are; 2 the model or an argument is at fault; 130 stopped by Ctrl-C.
"""


def request(example: Example) -> dict[str, Any]:
    """The arguments of `CommandR.chat` and `CommandR.render` for an example."""
    if example.task == "chat":
        return {"messages": example.messages}
    if example.task == "tools":
        return {"messages": example.messages, "tools": example.tools}
    return {
        "messages": example.messages,
        "documents": example.documents,
        "citation_mode": example.citation_mode,
    }


def held_out(task: Task, count: int, seed: int) -> Iterator[Example]:
    """`count` examples of the test split, for each task from a stream of its own."""
    return Source("test", len(TASKS) * seed + TASKS.index(task)).examples(task, count)


def evaluate(
    model: CommandR,
    *,
    count: int = 500,
    tasks: Sequence[Task] = TASKS,
    seed: int = 1,
    chat: bool = False,
    progress: Callable[[Task], object] | None = None,
) -> Scores:
    """Let a model reply greedily to `count` held-out prompts of each task, and score what it wrote.

    Args:
        model: any model; where its file lacks a chat template, one of the published structure takes its place.
        count: prompts of each task.
        tasks: those to be evaluated.
        seed: chooses the prompts.
        chat: let `CommandR.chat` decode, with constraints and drafts, which should change no score for the worse.
            Where the model is asked again without tools, its first reply counts.
        progress: called with its task after each reply.

    Raises:
        ArgumentError: count is below 1, or there is a task that is none.
        ContextFullError: a prompt does not fit in the model's context.
    """
    if count < 1:
        raise ArgumentError(f"the count of prompts must be 1 or more, not {count}")
    if not tasks or not set(tasks) <= set(TASKS):
        raise ArgumentError(f"tasks must be some of {', '.join(TASKS)}, not {','.join(tasks)!r}")
    replies = []
    start = time.perf_counter()
    for task in dict.fromkeys(tasks):
        for example in held_out(task, count, seed):
            generation = (_chat if chat else _generate)(model, request(example))
            replies.append(Reply(example, generation, check(example, generation.text)))
            if progress is not None:
                progress(task)
    return Scores(replies, time.perf_counter() - start)


def _generate(model: CommandR, asked: dict[str, Any]) -> Generation:
    return model.generate(model.prompt(**asked).tokens, temperature=0, max_tokens=MAX_TOKENS, speculate=False)


def _chat(model: CommandR, asked: dict[str, Any]) -> Generation:
    with model.chat(**asked, temperature=0, max_tokens=MAX_TOKENS, stream=True) as stream:
        stream.finish()
    return stream.generations[0]


# ---- the command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a file and print its scores; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        report = _run(arguments)
        if arguments.json:
            sys.stdout.write(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        else:
            _print(report)
        sys.stdout.flush()
    except CommandRError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except BrokenPipeError:  # whoever reads the scores, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> Report:
    with CommandR(arguments.model, n_threads=arguments.threads) as model:
        with _progress(arguments.count * len(arguments.tasks)) as progress:
            scores = evaluate(
                model,
                count=arguments.count,
                tasks=arguments.tasks,
                seed=arguments.seed,
                chat=arguments.chat,
                progress=progress,
            )
        return {
            "model": str(arguments.model),
            "file_type": file_type(model),
            "seed": arguments.seed,
            **describe(scores),
            "errors": describe_errors(scores, arguments.show_errors, lambda example: model.render(**request(example))),
        }


def _print(report: Report) -> None:
    console = Console(highlight=False)
    print_errors(console, report["errors"])
    title = f"{report['model']}: {report['file_type']}, seed {report['seed']}"
    console.print(Text(title), soft_wrap=True)
    print_scores(console, report)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m commandr_gguf.demo.evaluate",
        description="Score a model on held-out prompts: short chats, tool calls, and grounded answers with citations.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.gguf", help="the embedded model, or any other")
    add("--count", type=_positive, default=500, metavar="N", help="prompts of each task; default: 500")
    add("--tasks", type=_tasks, default=TASKS, metavar="NAMES", help=f"some of {','.join(TASKS)}; default: all")
    add("--seed", type=int, default=1, metavar="N", help="chooses the prompts; default: 1")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads; default: 1, enough for so small a model")
    add("--chat", action="store_true", help="decode with constraints and drafts, as chats do, and not plainly")
    add("--show-errors", type=_positive, default=0, metavar="N", help="print the first N wrong replies of each task")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _tasks(text: str) -> tuple[Task, ...]:
    names = dict.fromkeys(text.split(","))
    for name in names:
        if name not in TASKS:
            raise argparse.ArgumentTypeError(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}")
    return tuple(task for task in TASKS if task in names)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Task], object] | None]:
    """A bar on standard error, when that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        number = bar.add_task("", total=total)
        yield lambda task: bar.update(number, advance=1, description=task)


if __name__ == "__main__":
    sys.exit(main())
