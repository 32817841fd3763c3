"""Each score moves with what it is about, and with nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from commandr_gguf import Generation, Timings
from commandr_gguf.demo.data.example import TASKS, Example, Task
from commandr_gguf.demo.data.grounded import NOT_FOUND
from commandr_gguf.demo.data.source import Source
from commandr_gguf.demo.scoring import METRICS, Metric, Reply, Score, Scores, check

CHAT = Example("chat", [], "You are welcome.")


def action(*calls: dict[str, Any]) -> str:
    return f"Action: ```json\n{json.dumps(calls, indent=4)}\n```"


def call(tool: str, /, **parameters: Any) -> dict[str, Any]:
    return {"tool_name": tool, "parameters": parameters}


BOOK = call("book_table", name="Mara Quill", people=14, price=3.0)
TOOLS = Example("tools", [], action(BOOK), call=BOOK)
NO_CALL = call("directly_answer")
NO_TOOL = Example("tools", [], action(NO_CALL), call=NO_CALL)

ACCURATE = Example(
    "accurate",
    [],
    "Relevant Documents: 1,2\nCited Documents: 1,2\n"
    "Answer: The Velmora Bridge is 4,500 meters long and was designed by Ada Norn.\n"
    "Grounded answer: The Velmora Bridge is <co: 1>4,500 meters</co: 1> long and was designed by "
    "<co: 2>Ada Norn</co: 2>.",
    cited=(1, 2),
    facts=("4,500 meters", "Ada Norn"),
)
GROUNDED = ACCURATE.reply.partition("Grounded answer:")[2]
FAST = Example(
    "fast",
    [],
    "Relevant Documents: 1\nCited Documents: 1\nGrounded answer: It weighs <co: 1>12.5</co: 1>.",
    cited=(1,),
    facts=("12.5",),
)
NONE = Example(
    "accurate",
    [],
    f"Relevant Documents: 0\nCited Documents: None\nAnswer: {NOT_FOUND}\nGrounded answer: {NOT_FOUND}",
    facts=(NOT_FOUND,),
)
UNPARSABLE = ("", "Action:", "Grounded", "\N{REPLACEMENT CHARACTER}", "0, 1", "[", "{}")


def wrong(example: Example, reply: str) -> set[str]:
    """What is wrong but the wording, which is the whole of a chat reply and tested by itself elsewhere."""
    checks = check(example, reply)
    return {name for name, right in checks.items() if not right and (name != "reply" or example.task == "chat")}


@pytest.mark.parametrize("task", TASKS)
def test_the_expected_reply_is_right_in_everything(task: Task) -> None:
    metrics = {metric.name for metric in METRICS if task in metric.tasks}
    for example in Source("test", 9).examples(task, 300):
        assert check(example, example.reply) == dict.fromkeys(metrics, True)


@pytest.mark.parametrize("example", [CHAT, TOOLS, NO_TOOL, ACCURATE, FAST, NONE], ids=lambda e: e.reply[:40])
@pytest.mark.parametrize("reply", UNPARSABLE)
def test_what_does_not_parse_is_wrong_in_everything(example: Example, reply: str) -> None:
    assert set(check(example, reply).values()) == {False}


@pytest.mark.parametrize("example", [CHAT, TOOLS, NO_TOOL, ACCURATE, FAST, NONE], ids=lambda e: e.reply[:40])
def test_a_reply_is_exactly_right_or_not(example: Example) -> None:
    assert check(example, example.reply)["reply"]
    for reply in (f"{example.reply}\n", f" {example.reply}", example.reply[:-1], example.reply.replace(" ", "  ", 1)):
        assert not check(example, reply)["reply"]


@pytest.mark.parametrize("reply", ["You are welcome", "you are welcome.", "You are welcome. ", "Goodbye!"])
def test_chat(reply: str) -> None:
    assert wrong(CHAT, reply) == {"reply"}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (action({"parameters": dict(reversed(BOOK["parameters"].items())), "tool_name": "book_table"}), set()),
        (f"Action: {json.dumps([BOOK])}", set()),
        (action(call("book_tables", **BOOK["parameters"])), {"tool_name", "action"}),
        (action(NO_CALL), {"tool_name", "action"}),
        (action(), {"tool_name", "action"}),
        (action(BOOK, BOOK), {"tool_name", "action"}),
        (action(BOOK, NO_CALL), {"tool_name", "action"}),
        (f"Action: ```json\n{json.dumps(BOOK)}\n```", {"action"}),
        (f"Action: ```json\n[{json.dumps([BOOK])}]\n```", {"tool_name", "action"}),
        (f"No Action: {json.dumps([BOOK])}", {"action"}),
        (f"No Action: {json.dumps([call('a')])} is right.\nAction: {json.dumps([BOOK])}", {"tool_name", "action"}),
        (f"No Action: [1] is right.\nAction: {json.dumps([BOOK])}", set()),
        (f"Action: {'[' * 100_000}", {"tool_name", "action"}),
        (f"Action: {json.dumps([BOOK])}\nAction: {'[' * 100_000}", set()),
        (f"No Action: {'[' * 100_000}\nAction: {json.dumps([BOOK])}", set()),
        ("Action: " + json.dumps([BOOK]).replace("3.0", "1e999"), {"tool_name", "action"}),
        (action(call("book_table", name="Mara Quill", people=15, price=3.0)), {"action"}),
        (action(call("book_table", name="Mara Quill", people="14", price=3.0)), {"action"}),
        (action(call("book_table", name="Mara Quill", people=14.0, price=3.0)), {"action"}),
        (action(call("book_table", name="Mara Quill", people=14, price=3)), {"action"}),
        (action(call("book_table", name="Mara Quil", people=14, price=3.0)), {"action"}),
        (action(call("book_table", name="Mara Quill", people=14)), {"action"}),
        (action(call("book_table", name="Mara Quill", people=14, price=3.0, time="9:30")), {"action"}),
        (action({**BOOK, "reason": "asked"}), {"action"}),
        (json.dumps([BOOK]), {"action"}),
        (action(BOOK)[:-12], {"tool_name", "action"}),
    ],
)
def test_tool_calls(reply: str, expected: set[str]) -> None:
    assert wrong(TOOLS, reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (action(BOOK), {"tool_name", "action"}),
        (action(call("directly_answer", text="Hello")), {"action"}),
        (action(call("directly-answer")), {"action"}),
        (action(), {"tool_name", "action"}),
        (action(NO_CALL, NO_CALL), {"tool_name", "action"}),
        (action(NO_CALL, BOOK), {"tool_name", "action"}),
        ("Hello!", {"tool_name", "action"}),
    ],
)
def test_no_tool(reply: str, expected: set[str]) -> None:
    assert wrong(NO_TOOL, reply) == expected


def edited(example: Example, *changes: tuple[str, str]) -> str:
    reply = example.reply
    for old, new in changes:
        assert old in reply
        reply = reply.replace(old, new)
    return reply


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("Relevant Documents: 1,2", "Relevant Documents: 0")], set()),
        ([("Cited Documents: 1,2", "Cited Documents: 2, 1")], set()),
        ([("<co: 1>", "<co:1>")], set()),
        ([("Bridge", "Canal")], set()),
        ([("Cited Documents: 1,2", "Cited Documents: 1,3")], {"cited", "grounded"}),
        ([("Cited Documents: 1,2", "Cited Documents: 1")], {"cited", "grounded"}),
        ([("Cited Documents: 1,2\n", "")], {"cited", "grounded"}),
        ([("Cited Documents: 1,2", "Cited Documents: 1,2 and more")], {"cited"}),
        ([("Cited Documents: 1,2", "Cited Documents: 1,2,")], {"cited"}),
        ([("Cited Documents: 1,2", "Cited Documents: 1,2 ")], set()),
        ([("Cited Documents: 1,2", "Cited Documents: Document 1,2")], {"cited", "grounded"}),
        ([("Cited Documents: 1,2", "**Cited Documents:** 1,2")], {"cited"}),
        ([("4,500", "4,501")], {"fact", "spans"}),
        ([("4,500", "14,500")], {"fact", "spans"}),
        ([("4,500", "500")], {"fact", "spans"}),
        ([("long and was designed by Ada", "long and was designed by Ida")], {"grounded"}),
        ([("Ada Norn</co", "Ada Norm</co")], {"fact", "grounded", "spans"}),
        ([("<co: 1>", ""), ("</co: 1>", "")], {"cited", "grounded", "spans"}),
        ([("<co: 1>", "<co: 0>"), ("</co: 1>", "</co: 0>")], {"cited", "grounded", "spans"}),
        ([(GROUNDED, "")], {"cited", "grounded", "spans"}),
        ([(GROUNDED, " <co: 1> </co: 1><co: 2>")], {"cited", "grounded", "spans"}),
        ([("<co: 1>", "<co: 1,2>"), ("</co: 1>", "</co: 1,2>")], {"spans"}),
        ([("<co: 1>4,500", "4,<co: 1>500")], {"spans"}),
        ([("Answer: The", "Answer: A")], {"grounded"}),
        ([("Grounded answer", "Grounded")], {"grounded", "spans"}),
    ],
)
def test_an_accurate_answer(changes: list[tuple[str, str]], expected: set[str]) -> None:
    assert wrong(ACCURATE, edited(ACCURATE, *changes)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("It weighs", "The weight is")], set()),
        ([("12.5", "12.57")], {"fact", "spans"}),
        ([("12.5", "2.5")], {"fact", "spans"}),
        ([("12.5", "12")], {"fact", "spans"}),
        ([("<co: 1>12.5</co: 1>", "12.5")], {"cited", "spans"}),
        ([("<co: 1>", "<co: 0>"), ("</co: 1>", "</co: 0>")], {"cited", "spans"}),
        ([("Cited Documents: 1", "Cited Documents: None")], {"cited"}),
        ([("Cited Documents: 1", "Cited Documents:")], {"cited"}),
        ([("Cited Documents: 1", "Cited Documents:\n1")], {"cited"}),
        ([("Grounded answer: ", "")], {"spans"}),
    ],
)
def test_a_fast_answer(changes: list[tuple[str, str]], expected: set[str]) -> None:
    assert wrong(FAST, edited(FAST, *changes)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([("Cited Documents: None", "Cited Documents: 0")], {"cited", "grounded"}),
        ([("Cited Documents: None", "Cited Documents:")], {"cited"}),
        ([("Cited Documents: None", "Cited Documents: no document")], {"cited"}),
        ([("Grounded answer: I could", "Grounded answer: I <co: 0>could</co: 0>")], {"cited", "grounded", "spans"}),
        ([(f"Grounded answer: {NOT_FOUND}", "Grounded answer:")], {"grounded", "spans"}),
        ([(f"Grounded answer: {NOT_FOUND}", "Grounded answer: \n \n")], {"grounded", "spans"}),
        ([(f"Grounded answer: {NOT_FOUND}", "Grounded answer: <co: 0></co: 0>")], {"grounded", "spans"}),
        ([(NOT_FOUND, "It is 12.")], {"fact"}),
    ],
)
def test_no_document_holds_the_answer(changes: list[tuple[str, str]], expected: set[str]) -> None:
    assert wrong(NONE, edited(NONE, *changes)) == expected


# ---- scores over many replies


def metric(target: float | None = 0.9) -> Metric:
    return Metric("m", "a metric", ("chat",), target, lambda example, reply: True)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433), (475, 500, 0.9272, 0.9659)],
)
def test_the_interval_is_wilsons(right: int, count: int, low: float, high: float) -> None:
    score = Score(metric(), ("chat",), right, count)
    assert score.rate == right / count
    assert score.interval == pytest.approx((low, high), abs=1e-4)


def test_a_target_is_reached_at_its_very_value() -> None:
    assert Score(metric(0.9), ("chat",), 9, 10).reached is True
    assert Score(metric(0.9), ("chat",), 89, 100).reached is False
    assert Score(metric(None), ("chat",), 9, 10).reached is None


def reply(example: Example, text: str | None = None, **timings: Any) -> Reply:
    text = example.reply if text is None else text
    return Reply(example, Generation(text, finish_reason="stop", timings=Timings(**timings)), check(example, text))


def test_scores_of_several_tasks_come_together_and_alone() -> None:
    replies = [reply(ACCURATE), reply(ACCURATE, "?"), reply(FAST), reply(FAST), reply(TOOLS, "?")]
    scores = Scores(replies, 1.0)
    assert [(s.metric.name, s.tasks, s.right, s.count) for s in scores.scores] == [
        ("reply", ("tools", "accurate", "fast"), 3, 5),
        ("reply", ("tools",), 0, 1),
        ("reply", ("accurate",), 1, 2),
        ("reply", ("fast",), 2, 2),
        ("tool_name", ("tools",), 0, 1),
        ("action", ("tools",), 0, 1),
        ("cited", ("accurate", "fast"), 3, 4),
        ("cited", ("accurate",), 1, 2),
        ("cited", ("fast",), 2, 2),
        ("fact", ("accurate", "fast"), 3, 4),
        ("fact", ("accurate",), 1, 2),
        ("fact", ("fast",), 2, 2),
        ("grounded", ("accurate",), 1, 2),
        ("spans", ("accurate", "fast"), 3, 4),
        ("spans", ("accurate",), 1, 2),
        ("spans", ("fast",), 2, 2),
    ]
    assert scores.score("cited").count == 4
    assert scores.score("cited", "fast").right == 2
    assert scores.score("grounded").rate == 0.5
    with pytest.raises(KeyError):
        scores.score("reply", "chat")
    assert scores.wrong == [replies[1], replies[4]]
    assert [s.tasks for s in Scores(replies[2:4], 1.0).scores] == [("fast",)] * 4


def test_speed_is_over_all_prompts() -> None:
    replies = [
        reply(CHAT, prefill_tokens=100, prefill_seconds=0.5, decode_tokens=10, decode_seconds=0.1),
        reply(CHAT, prefill_tokens=50, prefill_seconds=0.1, decode_tokens=30, decode_seconds=0.9),
    ]
    speed = Scores(replies, 4.0).speed
    assert speed.prefill_tokens_per_second == pytest.approx(250)
    assert speed.decode_tokens_per_second == pytest.approx(40)
    assert speed.prompts_per_second == 0.5
    assert Scores([], 0.0).speed.decode_tokens_per_second == 0


def test_replies_that_are_cut_are_counted() -> None:
    cut = Reply(CHAT, Generation("You are", finish_reason="length"), check(CHAT, "You are"))
    assert Scores([reply(CHAT), cut], 1.0).n_cut == 1
