"""Evaluation: what a model is asked, what is counted, and what the command prints."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

import models
from commandr_gguf import ArgumentError, CommandR, Generation, ReplyStream, Timings
from commandr_gguf.chat.filter import ReplyFormat
from commandr_gguf.demo.data.example import TASKS, Example, Task
from commandr_gguf.demo.data.names import belongs
from commandr_gguf.demo.evaluate import MAX_TOKENS, evaluate, held_out, main, request
from commandr_gguf.demo.report import describe, describe_errors, print_errors, print_scores
from commandr_gguf.demo.scoring import Scores
from scripted import Pieces, stage


class StandIn:
    """Replies to the prompts of one evaluation in the place of a model."""

    def __init__(self, answer: Callable[[Example], str], count: int, tasks: tuple[Task, ...] = TASKS) -> None:
        self._answer = answer
        self._examples = [example for task in tasks for example in held_out(task, count, 1)]
        self.requests: list[dict[str, Any]] = []

    def prompt(self, **asked: Any) -> Any:
        return SimpleNamespace(tokens=asked)

    def generate(self, asked: Any, **options: Any) -> Generation:
        example = self._examples[len(self.requests)]
        self.requests.append({**asked, **options})
        timings = Timings(prefill_tokens=200, prefill_seconds=0.1, decode_tokens=50, decode_seconds=0.1)
        return Generation(self._answer(example), finish_reason="stop", timings=timings)

    def chat(self, *, stream: bool, **asked: Any) -> ReplyStream:
        assert stream
        written = self.generate(asked).text
        format_: ReplyFormat = "tools" if "tools" in asked else "grounded" if "documents" in asked else "chat"
        return ReplyStream(stage(Pieces(written), format_), (), lambda _: stage(Pieces("And more."), "chat"))


def scores_of(
    answer: Callable[[Example], str], count: int = 20, tasks: tuple[Task, ...] = TASKS, **options: Any
) -> Scores:
    return evaluate(cast("CommandR", StandIn(answer, count, tasks)), count=count, tasks=tasks, **options)


def rates(scores: Scores) -> dict[str, float]:
    """By metric, over all of its tasks."""
    return {score.metric.name: scores.score(score.metric.name).rate for score in scores.scores}


def test_a_model_that_is_always_right() -> None:
    scores = scores_of(lambda example: example.reply)
    assert set(rates(scores).values()) == {1.0}
    assert {score.count for score in scores.scores} == {20, 40, 80}
    assert scores.wrong == []
    assert scores.n_cut == 0
    assert scores.speed.prefill_tokens_per_second == pytest.approx(2000)
    assert scores.speed.decode_tokens_per_second == pytest.approx(500)
    assert scores.speed.prompts_per_second > 0


def test_replies_of_a_chat_are_scored_as_the_model_wrote_them() -> None:
    """Where it wants no tool, what it says when it is asked again does not count."""
    scores = scores_of(lambda example: example.reply, chat=True)
    assert set(rates(scores).values()) == {1.0}
    no_tool = [reply for reply in scores.replies if "directly_answer" in reply.generation.text]
    assert no_tool
    assert all(reply.generation.text == reply.example.reply for reply in no_tool)
    assert set(rates(scores_of(lambda example: "", chat=True)).values()) == {0.0}


def test_a_model_that_says_nothing() -> None:
    scores = scores_of(lambda example: "")
    assert set(rates(scores).values()) == {0.0}
    assert scores.wrong == scores.replies


def test_a_model_that_forgets_tags() -> None:
    def answer(example: Example) -> str:
        return example.reply.replace("</co", "<co").replace("<co: ", "(").replace(">", ")")

    scores = scores_of(answer, 100)
    found = rates(scores)
    assert found["tool_name"] == found["action"] == scores.score("reply", "chat").rate == 1.0
    # What has nothing to cite has no tags to forget.
    assert found["grounded"] == sum(not example.cited for example in held_out("accurate", 100, 1)) / 100 < 0.3
    assert 0 < found["spans"] == found["cited"] < 0.3
    assert scores.score("reply", "fast").rate == scores.score("cited", "fast").rate


def test_a_model_that_mistakes_the_last_digit() -> None:
    def answer(example: Example) -> str:
        reply = example.reply
        for fact in example.facts:
            reply = reply.replace(fact, fact[:-1] + str((int(fact[-1]) + 1) % 10) if fact[-1].isdecimal() else fact)
        return reply

    scores = scores_of(answer, 100)
    ending = sum(any(f[-1].isdecimal() for f in reply.example.facts) for reply in scores.replies)
    assert ending > 10
    assert scores.score("fact").right == scores.score("spans").right == 200 - ending
    assert scores.score("cited").rate == scores.score("grounded").rate == 1.0


def test_a_model_that_answers_by_itself() -> None:
    answer = 'Action: ```json\n[{"tool_name": "directly_answer", "parameters": {}}]\n```'
    scores = scores_of(lambda example: answer, 100, ("tools",))
    n_right = sum(
        example.call == {"tool_name": "directly_answer", "parameters": {}} for example in held_out("tools", 100, 1)
    )
    assert 0 < n_right < 50
    assert scores.score("tool_name").right == scores.score("action").right == n_right


def test_a_model_is_asked_greedily_and_in_the_form_of_each_task() -> None:
    model = StandIn(lambda example: example.reply, 5)
    told: list[Task] = []
    evaluate(cast("CommandR", model), count=5, progress=told.append)
    assert told == [task for task in TASKS for _ in range(5)]
    in_chat = StandIn(lambda example: example.reply, 5)
    evaluate(cast("CommandR", in_chat), count=5, chat=True)
    assert in_chat.requests == [
        {key: value for key, value in asked.items() if key != "speculate"} for asked in model.requests
    ]
    for task, asked in zip(told, model.requests, strict=True):
        keys = {"chat": set(), "tools": {"tools"}}.get(task, {"documents", "citation_mode"})
        assert asked.keys() == {"messages", "temperature", "max_tokens", "speculate", *keys}
        assert asked["speculate"] is False
        assert asked["temperature"] == 0
        assert asked["max_tokens"] == MAX_TOKENS
        assert asked.get("citation_mode") in {None, task}


def test_prompts_are_held_out_and_each_task_has_its_own() -> None:
    for task in TASKS:
        examples = list(held_out(task, 50, 1))
        assert examples == list(held_out(task, 50, 1)) != list(held_out(task, 50, 2))
        assert all(belongs(entity, "test") for example in examples for entity in example.entities)
    accurate, fast = ([example.documents for example in held_out(task, 50, 1)] for task in ("accurate", "fast"))
    assert accurate != fast
    few = evaluate(cast("CommandR", StandIn(lambda e: e.reply, 5, ("fast",))), count=5, tasks=("fast", "fast"))
    assert [reply.example for reply in few.replies] == list(held_out("fast", 5, 1))


@pytest.mark.parametrize("arguments", [{"count": 0}, {"tasks": ()}, {"tasks": ("chats",)}, {"tasks": "chat"}])
def test_arguments_that_make_no_sense(arguments: dict[str, Any]) -> None:
    model = StandIn(lambda example: "", 5)
    with pytest.raises(ArgumentError, match="count of prompts must be 1|tasks must be some of chat, tools"):
        evaluate(cast("CommandR", model), **arguments)
    assert model.requests == []


# ---- what is printed


def printed(scores: Scores) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    print_scores(console, describe(scores))
    return cast("io.StringIO", console.file).getvalue().splitlines()


def test_the_table_has_a_line_for_each_score() -> None:
    def answer(example: Example) -> str:
        return "?" if example.task == "fast" else example.reply

    assert [line.rstrip() for line in printed(scores_of(answer, 10))][:-1] == [
        "score                     task       right  count  95% interval  target",
        "reply exactly right       all        75.0%     40     59.8-85.8",
        "reply exactly right       chat      100.0%     10    72.2-100.0",
        "reply exactly right       tools     100.0%     10    72.2-100.0",
        "reply exactly right       accurate  100.0%     10    72.2-100.0",
        "reply exactly right       fast        0.0%     10      0.0-27.8",
        "tool name                 tools     100.0%     10    72.2-100.0     97%  reached",
        "whole Action JSON         tools     100.0%     10    72.2-100.0     93%  reached",
        "cited documents           both       50.0%     20     29.9-70.1     95%  missed",
        "cited documents           accurate  100.0%     10    72.2-100.0     95%  reached",
        "cited documents           fast        0.0%     10      0.0-27.8     95%  missed",
        "answer's fact             both       50.0%     20     29.9-70.1     93%  missed",
        "answer's fact             accurate  100.0%     10    72.2-100.0     93%  reached",
        "answer's fact             fast        0.0%     10      0.0-27.8     93%  missed",
        "grounded = answer + tags  accurate  100.0%     10    72.2-100.0     90%  reached",
        "cited spans               both       50.0%     20     29.9-70.1",
        "cited spans               accurate  100.0%     10    72.2-100.0",
        "cited spans               fast        0.0%     10      0.0-27.8",
    ]


def test_below_the_table_is_what_it_took() -> None:
    scores = scores_of(lambda example: example.reply, 2)
    assert printed(scores)[-1].startswith("prefill 2000 tokens/s, decode 500 tokens/s, ")
    cut = replace(scores.replies[0], generation=Generation("You", finish_reason="length"))
    assert not any("end by themselves" in line for line in printed(scores))
    assert printed(Scores([cut, cut], 1.0))[-2] == "2 replies did not end by themselves"


def test_errors_are_shown_with_prompt_expected_and_actual_reply() -> None:
    scores = scores_of(lambda example: "Wrong\x1b[31m\u202e \N{NO-BREAK SPACE}\ud800!", 3)
    errors = describe_errors(scores, 2, lambda example: f"PROMPT {example.task}")
    assert [error["task"] for error in errors] == [task for task in TASKS for _ in range(2)]
    console = Console(file=io.StringIO(), width=80)
    print_errors(console, errors[:1])
    expected = next(held_out("chat", 1, 1)).reply
    assert cast("io.StringIO", console.file).getvalue() == (
        f"chat: wrong in reply\nprompt:\n    PROMPT chat\nexpected:\n    {expected}\n"
        "actual:\n    Wrong\ufffd[31m\ufffd \N{NO-BREAK SPACE}\ufffd!\n\n"
    )


# ---- the command


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commandr_gguf.demo.evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def path() -> Path:
    """A model of random weights: it has the templates, and nothing that it says is right."""
    return models.gguf("gqa", "Q8_0")


def test_the_command_prints_json(path: Path) -> None:
    done = run(path, "--count", 2, "--tasks", "fast,chat", "--json", "--show-errors", 1, "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["model"], report["file_type"], report["seed"]) == (str(path), "Q8_0", 1)
    scores = {score["name"]: score for score in report["scores"]}
    assert list(scores) == ["reply", "cited", "fact", "spans"]
    assert scores["cited"]["tasks"] == ["fast"]
    assert scores["reply"]["tasks"] == ["fast"]  # the last of its rows
    assert [scores["cited"][key] for key in ("right", "count", "rate", "target", "reached")] == [0, 2, 0, 0.95, False]
    assert report["speed"]["decode_tokens_per_second"] > 0
    assert [error["task"] for error in report["errors"]] == ["chat", "fast"]
    assert report["errors"][0]["prompt"].startswith("<BOS_TOKEN><|START_OF_TURN_TOKEN|>")
    assert report["errors"][1]["expected"] == next(held_out("fast", 1, 1)).reply


def test_the_command_prints_a_plain_table(path: Path) -> None:
    done = run(path, "--count", 1, "--tasks", "chat", "--seed", 3)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"{path}: Q8_0, seed 3"
    assert lines[1].split()[0] == "score"
    assert lines[2].split() == ["reply", "exactly", "right", "chat", "0.0%", "1", "0.0-79.3"]
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: MODEL.gguf"),
        (["absent.gguf"], "absent.gguf"),
        (["absent.gguf", "--count", "0"], "'0' is no whole number above 0"),
        (["absent.gguf", "--count", "x"], "'x' is no whole number above 0"),
        (["absent.gguf", "--tasks", "chat,tool"], "there is no task 'tool'; the tasks are chat, tools, accurate, fast"),
        (["absent.gguf", "--show-errors", "-1"], "'-1' is no whole number above 0"),
    ],
)
def test_errors_are_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_file_that_lacks_a_template_is_evaluated_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = models.checkpoint("gqa")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = [entry for entry in config["chat_template"] if entry["name"] == "default"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    path = models.convert(folder, tmp_path / "model.gguf", "Q8_0")
    assert main([str(path), "--count", "1", "--tasks", "fast"]) == 0
    assert "cited documents" in capsys.readouterr().out
    (warning,) = caplog.messages
    assert "there is no chat template 'rag'" in warning


def test_chat_decodes_with_constraints(path: Path) -> None:
    plain, chat = (
        json.loads(run(path, "--count", 1, "--tasks", "tools", "--json", "--show-errors", 1, *option).stdout)
        for option in ((), ("--chat",))
    )
    written = [report["errors"][0]["actual"] for report in (plain, chat)]
    assert not written[0].startswith("Action:")
    assert written[1].startswith("Action:")


def test_help_has_an_example() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "python -m commandr_gguf.demo.evaluate demo.gguf --tasks tools,fast" in done.stdout


def test_a_request_renders_the_prompt_of_its_task(path: Path) -> None:
    with CommandR(path) as model:
        for task, mark in (("chat", "<|USER_TOKEN|>"), ("tools", "```python"), ("fast", "<results>")):
            assert mark in model.render(**request(next(held_out(cast("Task", task), 1, 1))))
