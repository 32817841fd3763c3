"""What is right about a reply: scores of the embedded model, each a yes or a no for one prompt."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from commandr_gguf.chat.actions import ACTION_MARK, NO_TOOL, decode_actions, parse_calls
from commandr_gguf.chat.citations import GroundedAnswer, parse_citations, parse_grounded_answer
from commandr_gguf.demo.data.example import TASKS, Example, Task
from commandr_gguf.errors import FormatError
from commandr_gguf.generate import Generation

_CONFIDENT = 1.96  # standard deviations that 95 % of a normal distribution are within
# The parsers are kind to replies that have marks in other forms or none, and the scores are not.
_CITED_LINE = re.compile(r"^Cited Documents:[ \t]*(?:None|[0-9]+(?:[ \t]*,[ \t]*[0-9]+)*)[ \t]*$", re.MULTILINE)
_GROUNDED_PART = re.compile(r"^Grounded answer:(.*)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Metric:
    """One thing that can be right or wrong about replies of some tasks."""

    name: str
    title: str
    tasks: tuple[Task, ...]
    target: float | None
    """The part of the replies that should be right; None where none was set."""
    passes: Callable[[Example, str], bool]
    """Whether a reply is right in this."""


@dataclass(frozen=True)
class Score:
    """How many replies are right in one thing."""

    metric: Metric
    tasks: tuple[Task, ...]
    """Whose replies were counted."""
    right: int
    count: int
    """At least 1."""

    @property
    def rate(self) -> float:
        """From 0 to 1."""
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Where the rate of endless prompts lies with a confidence of 95 %, after Wilson."""
        z2 = _CONFIDENT**2 / self.count
        middle = (self.rate + z2 / 2) / (1 + z2)
        margin = math.sqrt(z2 * self.rate * (1 - self.rate) + z2**2 / 4) / (1 + z2)
        return max(0.0, middle - margin), min(1.0, middle + margin)

    @property
    def reached(self) -> bool | None:
        """Whether the rate is the target or above it; None when there is no target."""
        return None if self.metric.target is None else self.rate >= self.metric.target


def check(example: Example, reply: str) -> dict[str, bool]:
    """What is right about a reply, by the names of METRICS of its task."""
    return {metric.name: metric.passes(example, reply) for metric in METRICS if example.task in metric.tasks}


def _same_reply(example: Example, reply: str) -> bool:
    return reply == example.reply


def _right_tool(example: Example, reply: str) -> bool:
    """The calls by name and in number; one to no tool counts as any other, in both of its spellings."""
    try:
        return _tools(reply) == _tools(example.reply)
    except FormatError:
        return False


def _tools(reply: str) -> list[str]:
    return ["" if call.name in NO_TOOL else call.name for call in parse_calls(reply)]


def _right_action(example: Example, reply: str) -> bool:
    """The whole list as the model wrote it, behind its mark."""
    try:
        actions = decode_actions(reply)
        return ACTION_MARK.search(reply) is not None and _canonical(actions) == _canonical([example.call])
    except (FormatError, RecursionError):  # what is just not too deep to be read may be too deep to be written
        return False


def _canonical(value: Any) -> str:
    """Text that tells 4, 4.0, "4" and true apart, but not the order of keys."""
    return json.dumps(value, sort_keys=True)


def _cites_the_documents(example: Example, reply: str) -> bool:
    """Announced, in a line of nothing else, and tagged are the very documents that hold the answer."""
    parts = parse_grounded_answer(reply)
    return _CITED_LINE.search(reply) is not None and set(parts.cited) == _tagged(parts) == set(example.cited)


def _tagged(parts: GroundedAnswer) -> set[int]:
    return {number for citation in parts.citations for number in citation.documents}


def _states_the_facts(example: Example, reply: str) -> bool:
    text = parse_grounded_answer(reply).text
    return all(_stands_in(fact, text) for fact in example.facts)


def _stands_in(value: str, text: str) -> bool:
    """Whether a text has the value as it is, not as a part of a longer word or number: no 500 in 4,500 or 500-1."""
    return re.search(rf"(?<!\w)(?<!\w[-.,:@]){re.escape(value)}(?!\w)(?![-.,:@]\w)", text) is not None


def _marks_the_spans(example: Example, reply: str) -> bool:
    spans, wanted = (
        [(citation.text, citation.documents) for citation in parse_grounded_answer(text).citations]
        for text in (reply, example.reply)
    )
    return _is_grounded(reply) and spans == wanted


def _answers_twice(example: Example, reply: str) -> bool:  # noqa: ARG001  # the reply must agree with itself alone
    """The grounded answer is the plain one with tags, and these name the very documents that were announced."""
    parts = parse_grounded_answer(reply)
    return _is_grounded(reply) and parts.text == parts.answer and _tagged(parts) == set(parts.cited)


def _is_grounded(reply: str) -> bool:
    """Whether a grounded answer stands behind its mark; the parser would take the plain one in its place."""
    part = _GROUNDED_PART.search(reply)
    return part is not None and parse_citations(part[1])[0] != ""


METRICS = (
    Metric("reply", "reply exactly right", TASKS, None, _same_reply),
    Metric("tool_name", "tool name", ("tools",), 0.97, _right_tool),
    Metric("action", "whole Action JSON", ("tools",), 0.93, _right_action),
    Metric("cited", "cited documents", ("accurate", "fast"), 0.95, _cites_the_documents),
    Metric("fact", "answer's fact", ("accurate", "fast"), 0.93, _states_the_facts),
    Metric("grounded", "grounded = answer + tags", ("accurate",), 0.90, _answers_twice),
    Metric("spans", "cited spans", ("accurate", "fast"), None, _marks_the_spans),
)
"""In the order in which they are printed."""


@dataclass(frozen=True)
class Reply:
    """What a model replied to one prompt."""

    example: Example
    generation: Generation
    checks: dict[str, bool]
    """What is right about it, see `check`."""


@dataclass(frozen=True)
class Speed:
    """Tokens per second over all prompts; what the session held of a prompt does not count."""

    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    prompts_per_second: float
    """Of the whole evaluation, drawing the prompts included."""


@dataclass(frozen=True)
class Scores:
    """What a model replied, and how much of it is right."""

    replies: list[Reply]
    seconds: float

    @property
    def scores(self) -> list[Score]:
        """One for each metric and task, and before those of several tasks the one over all of them."""
        found = []
        for metric in METRICS:
            tasks = tuple(task for task in metric.tasks if any(reply.example.task == task for reply in self.replies))
            groups = [tasks, *((task,) for task in tasks)] if len(tasks) > 1 else [tasks] if tasks else []
            for group in groups:
                checks = [reply.checks[metric.name] for reply in self.replies if reply.example.task in group]
                found.append(Score(metric, group, sum(checks), len(checks)))
        return found

    def score(self, metric: str, *tasks: Task) -> Score:
        """The score of a metric over these tasks; without any, over all of its tasks that were evaluated.

        Raises KeyError when there is none.
        """
        for score in self.scores:
            if score.metric.name == metric and (not tasks or score.tasks == tasks):
                return score
        raise KeyError(metric)

    @property
    def wrong(self) -> list[Reply]:
        """The replies that are not right in everything."""
        return [reply for reply in self.replies if not all(reply.checks.values())]

    @property
    def n_cut(self) -> int:
        """The replies that did not end by themselves."""
        return sum(reply.generation.finish_reason != "stop" for reply in self.replies)

    @property
    def speed(self) -> Speed:
        """How fast the model was."""
        timings = [reply.generation.timings for reply in self.replies]

        def rate(count: float, seconds: float) -> float:
            return count / seconds if seconds else 0.0

        return Speed(
            rate(sum(t.prefill_tokens for t in timings), sum(t.prefill_seconds for t in timings)),
            rate(sum(t.decode_tokens for t in timings), sum(t.decode_seconds for t in timings)),
            rate(len(self.replies), self.seconds),
        )
