"""Runs of tools with a model that follows a script."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from commandr_gguf import (
    ArgumentError,
    Finish,
    Plan,
    Text,
    ToolCall,
    ToolResult,
    ToolRun,
    UnsupportedError,
    run_tools,
)
from commandr_gguf.chat.messages import normalize
from commandr_gguf.chat.tool_run import MAX_STEPS, ToolStream
from scripted import ScriptedModel

QUESTION = [{"role": "user", "content": "What is 2 + 3, and twice that?"}]
ANSWER = "Relevant Documents: 0\nCited Documents: 0\nAnswer: It is 5.\nGrounded answer: It is <co: 0>5</co: 0>."


def actions(*calls: tuple[str, dict[str, Any]], plan: str = "Plan: I will add.\n") -> str:
    written = [{"tool_name": name, "parameters": parameters} for name, parameters in calls]
    return f"{plan}Action: ```json\n{json.dumps(written, indent=4)}\n```"


def add(a: int, b: int = 10) -> int:
    """Adds two numbers."""
    return a + b


def double(number: int) -> dict[str, int]:
    """Doubles a number."""
    return {"twice": 2 * number}


def gives(value: Any, reply: str = ANSWER) -> ToolRun:
    """The run of a function without parameters that returns a value."""

    def tool() -> Any:
        """Gives a value."""
        return value

    return run_tools(ScriptedModel(actions(("tool", {})), reply).model, QUESTION, [tool])


# ---- steps


def test_a_run_goes_on_until_the_model_answers() -> None:
    model = ScriptedModel(
        actions(("add", {"a": 2, "b": 3})), actions(("double", {"number": 5}), plan="Reflection: And twice.\n"), ANSWER
    )
    run = run_tools(model.model, QUESTION, [add, double])
    assert (run.stopped, run.reply.text) == ("answer", "It is 5.")
    assert [[(result.call.name, result.value, result.error) for result in step.results] for step in run.steps] == [
        [("add", 5, None)],
        [("double", {"twice": 10}, None)],
    ]
    assert [step.reply.plan.strip() for step in run.steps] == ["I will add.", "And twice."]
    (citation,) = run.reply.citations
    assert [source.document for source in citation.sources] == [{"output": "5"}]
    assert run.seconds >= sum(result.seconds for step in run.steps for result in step.results) >= 0


def test_the_model_is_shown_calls_and_results_as_messages() -> None:
    model = ScriptedModel(actions(("add", {"a": 2, "b": 3})), actions(("double", {"number": 5})), ANSWER)
    run = run_tools(model.model, QUESTION, [add, double], max_tokens=7)
    assert [len(messages) for messages, _ in model.asked] == [1, 3, 5]
    assert [message["role"] for message in run.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool",
        "assistant",
    ]
    (call,) = run.messages[1]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": {"a": 2, "b": 3}}
    assert run.messages[1]["tool_plan"].strip() == "I will add."
    assert run.messages[2]["tool_call_id"] == call["id"]
    assert run.messages[2]["documents"][0]["data"] == {"output": "5"}
    assert run.messages[-1] == {"role": "assistant", "content": "It is 5."}
    assert all(options["max_tokens"] == 7 for _, options in model.asked)


def test_several_calls_in_one_step_are_made_in_their_order() -> None:
    made: list[int] = []

    def note(number: int) -> int:
        """Notes a number."""
        made.append(number)
        return number

    model = ScriptedModel(actions(*(("note", {"number": n}) for n in (3, 1, 2))), ANSWER)
    run = run_tools(model.model, QUESTION, [note])
    assert made == [3, 1, 2]
    (step,) = run.steps
    assert [result.value for result in step.results] == [3, 1, 2]
    results = run.messages[2:5]
    assert [message["documents"][0]["data"]["output"] for message in results] == ["3", "1", "2"]
    assert [message["tool_call_id"] for message in results] == [call["id"] for call in run.messages[1]["tool_calls"]]


def test_results_belong_to_their_calls_when_an_older_call_has_none() -> None:
    open_call = {"role": "assistant", "tool_calls": [{"id": "old", "name": "add", "parameters": {"a": 1}}]}
    model = ScriptedModel(actions(("add", {"a": 2, "b": 3})), ANSWER)
    run = run_tools(model.model, [*QUESTION, open_call, *QUESTION], [add])
    assert run.messages[-2]["tool_call_id"] == run.messages[-3]["tool_calls"][0]["id"] != "old"


def test_the_messages_of_a_run_go_through_json_and_can_be_continued() -> None:
    first = run_tools(ScriptedModel(actions(("add", {"a": 2, "b": 3})), ANSWER).model, QUESTION, [add])
    kept = json.loads(json.dumps(first.messages))
    assert normalize(kept) == first.messages
    model = ScriptedModel(actions(("double", {"number": 4})), ANSWER)
    second = run_tools(model.model, [*kept, {"role": "user", "content": "Twice 4?"}], [add, double])
    assert second.messages[: len(kept)] == first.messages
    assert second.steps[0].results[0].value == {"twice": 8}


def test_a_run_without_calls_is_an_answer() -> None:
    run = run_tools(ScriptedModel(ANSWER).model, QUESTION, [add])
    assert (run.stopped, run.steps, run.reply.text) == ("answer", [], "It is 5.")


def test_text_beside_calls_is_kept() -> None:
    model = ScriptedModel("Let me see.\n" + actions(("add", {"a": 1}), plan=""), ANSWER)
    run = run_tools(model.model, QUESTION, [add])
    assert "Let me see." in json.dumps(run.messages[1])


def test_one_step_ends_with_an_answer_from_its_results() -> None:
    model = ScriptedModel(actions(("add", {"a": 2, "b": 3}), ("add", {"a": 5}), plan=""), ANSWER)
    run = run_tools(model.model, QUESTION, [add], multi_step=False)
    assert (run.stopped, len(run.steps), run.reply.text) == ("answer", 1, "It is 5.")
    (citation,) = run.reply.citations
    assert [(source.id, source.document) for source in citation.sources] == [("0:0", {"output": "5"})]
    assert run.reply.documents_relevant == [0]
    assert run.messages[-1] == {"role": "assistant", "content": "It is 5."}
    again = ScriptedModel(actions(("add", {"a": 1}), plan=""), ANSWER)
    more = run_tools(again.model, [*run.messages, *QUESTION], [add], multi_step=False)
    (citation,) = more.reply.citations  # numbers begin anew: this prompt shows no earlier results
    assert [source.document for source in citation.sources] == [{"output": "11"}]


# ---- functions


def test_a_function_that_fails_is_told_to_the_model() -> None:
    def divide(a: float, b: float) -> float:
        """Divides."""
        return a / b

    model = ScriptedModel(actions(("divide", {"a": 1, "b": 0})), actions(("divide", {"a": 1, "b": 2})), ANSWER)
    run = run_tools(model.model, QUESTION, [divide])
    (failed,), (right,) = (step.results for step in run.steps)
    assert failed.value is None
    assert failed.error is not None
    assert failed.error.startswith("ZeroDivisionError: ")
    assert right.value == 0.5
    assert model.asked[1][0][-1]["documents"][0]["data"] == {"error": failed.error}
    assert run.stopped == "answer"


def test_arguments_that_do_not_fit_are_told_to_the_model() -> None:
    run = run_tools(ScriptedModel(actions(("add", {"c": 1})), ANSWER).model, QUESTION, [add])
    error = run.steps[0].results[0].error
    assert error is not None
    assert error.startswith("TypeError: ")
    assert "'c'" in error


def test_a_tool_that_was_not_offered_is_not_called() -> None:
    called: list[str] = []
    functions: dict[str, Callable[..., Any]] = {"remove": lambda: called.append("remove"), "add": add}
    model = ScriptedModel(actions(("remove", {}), ("add", {"a": 1})), ANSWER)
    run = run_tools(model.model, QUESTION, [add], functions=functions)
    unknown, known = run.steps[0].results
    assert unknown.error == "there is no tool 'remove'; the tools are add"
    assert (known.value, called) == (11, [])


def test_null_is_a_parameter_left_out_unless_it_is_required() -> None:
    def show(a: int | None, b: int | None = 7) -> list[Any]:
        """Shows what it is given."""
        return [a, b]

    run = run_tools(ScriptedModel(actions(("show", {"a": None, "b": None})), ANSWER).model, QUESTION, [show])
    assert run.steps[0].results[0].value == [None, 7]


@pytest.mark.parametrize("max_seconds", [None, 60.0])
def test_interrupts_in_a_function_end_the_run(max_seconds: float | None) -> None:
    def stop() -> None:
        """Stops."""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tools(ScriptedModel(actions(("stop", {}))).model, QUESTION, [stop], max_seconds=max_seconds)


@pytest.mark.parametrize("max_seconds", [None, 60.0])
def test_a_function_that_would_end_the_program_is_told_to_the_model(max_seconds: float | None) -> None:
    def leave() -> None:
        """Leaves."""
        sys.exit("no such city")

    model = ScriptedModel(actions(("leave", {})), ANSWER)
    run = run_tools(model.model, QUESTION, [leave], max_seconds=max_seconds)
    assert run.steps[0].results[0].error == "SystemExit: no such city"
    assert run.stopped == "answer"


def test_without_a_limit_of_time_functions_run_in_the_calling_thread() -> None:
    def thread() -> int:
        """The thread."""
        return threading.get_ident()

    run = run_tools(ScriptedModel(actions(("thread", {})), ANSWER).model, QUESTION, [thread])
    assert run.steps[0].results[0].value == threading.get_ident()


def test_descriptions_find_their_functions_by_name() -> None:
    described = {"name": "sum", "description": "", "parameter_definitions": {"a": {"type": "int", "required": True}}}
    model = ScriptedModel(actions(("sum", {"a": 1})), ANSWER)
    run = run_tools(model.model, QUESTION, [described], functions={"sum": add})
    assert run.steps[0].results[0].value == 11
    with pytest.raises(ArgumentError, match="the tool 'sum' has no function to call"):
        run_tools(ScriptedModel().model, QUESTION, [described])


def test_wrong_tools_are_refused_before_the_model_is_asked() -> None:
    async def later() -> int:
        """Later."""
        return 1

    model = ScriptedModel()
    for tools, sentence in (
        ([later], "the function of tool 'later' is asynchronous"),
        ([add, add], "two tools have the name 'add'"),
        ([], "at least one tool"),
        ("add", "tools must be a list"),
        ({"name": "add"}, "tools must be a list"),
        (None, "tools must be a list"),
    ):
        with pytest.raises(ArgumentError, match=sentence):
            run_tools(model.model, QUESTION, tools)  # type: ignore[arg-type]
    assert model.asked == []


# ---- results


@dataclasses.dataclass
class Place:
    name: str
    people: int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": 1, "b": [1, 2]}, [{"a": 1, "b": [1, 2]}]),
        ([{"a": 1}, {"b": "x"}], [{"a": 1}, {"b": "x"}]),
        (iter([{"a": 1}, {"a": 2}]), [{"a": 1}, {"a": 2}]),
        (Place("Bergen", 3), [{"name": "Bergen", "people": 3}]),
        ([Place("Bergen", 3)], [{"name": "Bergen", "people": 3}]),
        ("größer", [{"output": "größer"}]),
        ("", [{"output": '""'}]),
        (5, [{"output": "5"}]),
        (True, [{"output": "true"}]),
        (None, [{"output": "null"}]),
        ([], [{"output": "[]"}]),
        ({}, [{"output": "{}"}]),
        ([1, {"a": 2}], [{"output": '[1, {"a": 2}]'}]),
        ({1: "x"}, [{"1": "x"}]),
        ({"at": 1 + 2j}, [{"at": "(1+2j)"}]),
        ({(1, 2): "x"}, [{"output": "{(1, 2): 'x'}"}]),
        ({"a": float("nan")}, [{"a": "NaN"}]),
        ({3}, [{"output": "[3]"}]),
    ],
)
def test_what_a_function_returns_is_shown_as_documents(value: Any, expected: list[dict[str, Any]]) -> None:
    run = gives(value)
    (message,) = [message for message in run.messages if message["role"] == "tool"]
    assert [document["data"] for document in message["documents"]] == expected
    json.loads(json.dumps(run.messages, allow_nan=False))


def test_a_value_that_holds_itself_does_not_end_the_run() -> None:
    value: list[Any] = []
    value.append(value)
    run = gives(value)
    assert run.messages[2]["documents"][0]["data"] == {"output": "[[...]]"}


# ---- limits


def test_the_limit_of_steps() -> None:
    model = ScriptedModel(*[actions(("add", {"a": 1}))] * 3)
    run = run_tools(model.model, QUESTION, [add], max_steps=2)
    assert (run.stopped, len(run.steps), len(model.asked)) == ("steps", 2, 3)
    assert run.reply.tool_calls == [ToolCall("add", {"a": 1})]
    assert [message["role"] for message in run.messages] == ["user", "assistant", "tool", "assistant", "tool"]
    model = ScriptedModel(*[actions(("add", {"a": 1}))] * (MAX_STEPS + 1))
    assert len(run_tools(model.model, QUESTION, [add]).steps) == MAX_STEPS
    for wrong in (0, 1.5, True):
        with pytest.raises(ArgumentError, match="max_steps must be"):
            run_tools(ScriptedModel().model, QUESTION, [add], max_steps=wrong)  # type: ignore[arg-type]


def test_the_limit_of_time_within_a_function() -> None:
    released = threading.Event()

    def wait() -> None:
        """Waits."""
        released.wait(30)

    model = ScriptedModel(actions(("wait", {}), ("add", {"a": 1})))
    started = time.monotonic()
    run = run_tools(model.model, QUESTION, [wait, add], max_seconds=2)
    released.set()
    assert time.monotonic() - started < 20
    assert run.stopped == "time"
    slow, not_called = run.steps[0].results
    assert slow.error == "TimeoutError: it took too long"
    assert not_called.error == "TimeoutError: there was no time left to call it"
    assert [message["role"] for message in run.messages] == ["user", "assistant", "tool", "tool"]


def test_the_limit_of_time_within_a_generation() -> None:
    run = run_tools(ScriptedModel(actions(("add", {"a": 1}))).model, QUESTION, [add], max_seconds=0)
    assert (run.stopped, run.steps, run.reply.finish_reason) == ("time", [], "cancelled")
    assert run.messages == normalize(QUESTION)


@pytest.mark.parametrize(
    ("text", "answered"),
    [("Relevant Documents: 0\nGrounded answer: It i", True), ("Plan: I will", False), ("", False)],
)
def test_a_reply_that_was_cut_is_no_answer(text: str, answered: bool) -> None:
    model = ScriptedModel(actions(("add", {"a": 1})), {"text": text, "reason": "length"})
    run = run_tools(model.model, QUESTION, [add])
    assert (run.stopped, run.reply.finish_reason, len(run.steps)) == ("length", "length", 1)
    assert [message["role"] for message in run.messages[3:]] == ["assistant"] * answered
    assert all(message["content"] == "It i" for message in run.messages[3:])


def test_calls_of_a_reply_that_was_cut_are_not_made() -> None:
    whole = actions(("add", {"a": 1}), ("add", {"a": 2}))
    cut = {"text": whole[: whole.rindex("{")], "reason": "length"}
    run = run_tools(ScriptedModel(cut).model, QUESTION, [add])
    assert run.reply.tool_calls[:1] == [ToolCall("add", {"a": 1})]
    assert (run.stopped, run.steps, run.messages) == ("length", [], normalize(QUESTION))


def test_a_generous_limit_of_time_changes_nothing() -> None:
    for limit in (60, float("inf"), 1e30):
        model = ScriptedModel(actions(("add", {"a": 1})), ANSWER)
        run = run_tools(model.model, QUESTION, [add], max_seconds=limit)
        assert (run.stopped, run.steps[0].results[0].value) == ("answer", 11)
    for wrong in (-1, float("nan"), "1", True):
        with pytest.raises(ArgumentError, match="max_seconds must be"):
            run_tools(ScriptedModel().model, QUESTION, [add], max_seconds=wrong)  # type: ignore[arg-type]


def test_a_progress_function_still_cancels() -> None:
    told: list[tuple[int, int]] = []

    def progress(n_done: int, n_total: int) -> bool:
        told.append((n_done, n_total))
        return len(told) < 3

    run = run_tools(ScriptedModel(ANSWER).model, QUESTION, [add], progress=progress, max_seconds=60)
    assert (run.stopped, len(told), run.reply.finish_reason) == ("cancelled", 3, "cancelled")


# ---- events


def test_events_of_all_replies_and_results_end_with_one_finish() -> None:
    seen: list[Any] = []
    model = ScriptedModel(actions(("add", {"a": 2, "b": 3})), ANSWER)
    run = run_tools(model.model, QUESTION, [add], on_event=seen.append)
    finishes = [event for event in seen if isinstance(event, Finish)]
    assert finishes == [seen[-1]] == [Finish(run.reply)]
    kinds = [type(event) for event in seen]
    assert kinds.index(Plan) < kinds.index(ToolCall) < kinds.index(ToolResult) < kinds.index(Text)
    (result,) = [event for event in seen if isinstance(event, ToolResult)]
    assert (result.call, result.value) == (ToolCall("add", {"a": 2, "b": 3}), 5)


def test_leaving_a_stream_of_events_early_keeps_the_trace() -> None:
    stream = ToolStream(ScriptedModel(actions(("add", {"a": 2, "b": 3})), ANSWER).model, QUESTION, [add])
    for event in stream:
        if isinstance(event, Text):
            break
    stream.close()
    run = stream.run
    assert (run.stopped, len(run.steps), run.reply.finish_reason) == ("cancelled", 1, "cancelled")
    assert "It is 5.".startswith(run.reply.text)
    assert run.reply.text
    assert list(stream) == []


def test_streams_are_asked_for_by_their_class() -> None:
    for value in (True, False):
        with pytest.raises(ArgumentError, match="run_tools takes no stream; iterate over ToolStream"):
            run_tools(ScriptedModel().model, QUESTION, [add], stream=value)


def test_what_cannot_be_a_conversation_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one message"):
        run_tools(ScriptedModel().model, [], [add])
    with pytest.raises(ArgumentError, match="has the role"):
        run_tools(ScriptedModel().model, [{"role": "x", "content": ""}], [add])


def test_a_model_that_always_takes_steps_is_not_asked_to() -> None:
    class CommandA(ScriptedModel):
        takes_steps_when_asked = False

        def chat(self, *arguments: Any, multi_step: bool | None = None, **options: Any) -> Any:
            assert multi_step is None
            return super().chat(*arguments, multi_step=True, **options)

    assert run_tools(CommandA(ANSWER).model, QUESTION, [add]).stopped == "answer"


def test_an_error_of_the_model_ends_the_run() -> None:
    def events() -> Iterator[Any]:
        yield from ToolStream(
            ScriptedModel({"text": "Plan: a", "error": UnsupportedError("broken")}).model, QUESTION, [add]
        )

    with pytest.raises(UnsupportedError, match="broken"):
        list(events())
