"""Tool calls are read from complete replies."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandr_gguf import FormatError, ToolCall, parse_actions
from commandr_gguf.chat.actions import decode_actions, parse_calls

FLIGHTS = ToolCall("search_flights", {"city": "Toronto", "day": 3})
LIST = json.dumps([{"tool_name": "search_flights", "parameters": {"city": "Toronto", "day": 3}}], indent=4)
NAMES = st.text(min_size=1).filter(lambda name: name not in ("directly_answer", "directly-answer"))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda values: st.one_of(st.lists(values, max_size=3), st.dictionaries(st.text(), values, max_size=3)),
    max_leaves=6,
)
CALLS = st.lists(st.builds(ToolCall, NAMES, st.dictionaries(st.text(), VALUES, max_size=3)), max_size=3)


def dumps(calls: list[ToolCall], **options: Any) -> str:
    return json.dumps([{"tool_name": call.name, "parameters": call.parameters} for call in calls], **options)


@pytest.mark.parametrize(
    "reply",
    [
        f"Action: ```json\n{LIST}\n```",
        f"Action: ```json\n{LIST}```",
        f"Action:```json\n{LIST}",
        f"  Action: {LIST}",
        f"```json\n{LIST}\n```",
        f"```\n{LIST}\n```",
        LIST,
        f"Here you are: {LIST} Shall I go on?",
        f"Plan: I look [it] up for [1].\nAction: ```json\n{LIST}\n```",
        f"Reflection: item [0] is late, so I use ```json\n{LIST}\n```",
        f"I will search [1]. {LIST}",
        f"Action: I use [1] first.\n```json\n{LIST}\n```",
        f"Action: as [1] says, {LIST}",
        f"Action: I leave [] aside: ```json\n{LIST}\n```",
        f"I leave [] aside: ```json\n{LIST}\n```",
        f"Action: ```json\n{LIST[1:-1]}\n```",
        f"```json\n{LIST[1:-1].strip()}```",
        f"**Action:** ```json\n{LIST}\n```",
        f"**action**: {LIST}",
        f'Plan: as in [{{"a": 1}}] and ```[2]```.\nAction: {LIST}',
        f"```json\n{LIST}\n```\nAction: [see above]",
    ],
)
def test_forms_that_models_write(reply: str) -> None:
    assert parse_actions(reply) == [FLIGHTS]


def test_several_calls_keep_their_order_and_repetitions() -> None:
    calls = [FLIGHTS, ToolCall("get_time", {}), FLIGHTS]
    assert parse_actions(f"Action: ```json\n{dumps(calls)}\n```") == calls


@pytest.mark.parametrize("name", ["directly_answer", "directly-answer"])
def test_no_tool_is_an_empty_list(name: str) -> None:
    nothing = {"tool_name": name, "parameters": {}}
    assert parse_actions(f"Action: ```json\n{json.dumps([nothing], indent=4)}\n```") == []
    call = {"tool_name": FLIGHTS.name, "parameters": FLIGHTS.parameters}
    assert parse_actions(f"Action: {json.dumps([nothing, call])}") == [FLIGHTS]
    assert parse_actions("Action: ```json\n[]\n```") == []


@pytest.mark.parametrize("parameters", ['{"tool_name": "a"}', '{"tool_name": "a", "parameters": null}'])
def test_parameters_may_be_missing(parameters: str) -> None:
    assert parse_actions(f"Action: [{parameters}]") == [ToolCall("a", {})]


@pytest.mark.parametrize(("written", "expected"), [('"7"', "7"), ("7", "7"), ("null", ""), ("[7]", "")])
def test_a_call_may_have_an_id(written: str, expected: str) -> None:
    reply = f'Action: [{{"tool_call_id": {written}, "tool_name": "a", "parameters": {{}}}}]'
    assert parse_actions(reply) == [ToolCall("a", {}, expected)]


def test_strings_may_be_broken_into_lines() -> None:
    reply = 'Action: [{"tool_name": "write", "parameters": {"text": "one\ntwo\ttab"}}]'
    assert parse_actions(reply) == [ToolCall("write", {"text": "one\ntwo\ttab"})]


@pytest.mark.parametrize("mark", ["", "Action: ", "Action: now "])
def test_strings_may_hold_a_fence_or_a_list(mark: str) -> None:
    calls = [ToolCall("write", {"text": f"```json\n{LIST}\n```"})]
    assert parse_actions(f"{mark}{dumps(calls)}") == calls


def test_the_json_and_every_call_as_the_model_wrote_them() -> None:
    nothing = {"tool_name": "directly_answer", "parameters": {}}
    assert decode_actions(f"Action: {json.dumps([nothing])}") == [nothing]
    assert decode_actions(f"Action: ```json\n{json.dumps(nothing)}\n```") == nothing
    assert parse_calls(f"Action: {json.dumps([nothing, nothing])}") == [ToolCall("directly_answer")] * 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "no JSON list of actions"),
        ("I can answer that myself.", "no JSON list of actions"),
        ("As stated in [1] and [2], no.", "no JSON list of actions"),
        ("Action: none", "no JSON list of actions"),
        ('Action: {"tool_name": "a"}', "no JSON list of actions"),
        ('Action: ```json\n{"name": "a"}\n```', "no JSON list of actions"),
        ('Action: ```json\n{"parameters": {}}\n```', "action 0 of the reply has no tool_name"),
        ('Action: ```json\n[{"tool_name": "a", "parameters": {', "not valid JSON"),
        ("Action: [see above]", "not valid JSON"),
        ('Action: [{"tool_name": "a", "parameters": {"x": NaN}}]', "NaN is no JSON number"),
        (f'Action: [{{"tool_name": "a", "parameters": {{"x": {"9" * 5000}}}}}]', "not valid JSON"),
        ('Action: [{"tool_name": "a", "parameters": {"x": 1e999}}]', "not valid JSON: 1e999 is too large a number"),
        ('Action: [{"tool_name": "a", "parameters": {"x": [-1.5E+400]}}]', "-1.5E.400 is too large a number"),
        (f"Action: [{LIST}]", "action 0 of the reply is no JSON object"),
        (f"Action: ```json\n[{LIST}]\n```", "action 0 of the reply is no JSON object"),
        ("Action: [[]]", "action 0 of the reply is no JSON object"),
        (f"Action: {'[' * 100_000}", "not valid JSON"),
        ('Action: ["a"]', "action 0 of the reply is no JSON object"),
        (f"Action: {LIST[:-1]}, 3]", "action 1 of the reply is no JSON object"),
        ('Action: [{"parameters": {}}]', "action 0 of the reply has no tool_name"),
        ('Action: [{"tool_name": 3}]', "action 0 of the reply has no tool_name"),
        ('Action: [{"tool_name": ""}]', "action 0 of the reply has no tool_name"),
        ('Action: [{"tool_name": "a", "parameters": []}]', "'a', has parameters that are no JSON object"),
    ],
)
def test_what_is_no_list_of_actions_is_refused(reply: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_actions(reply)


@given(
    calls=CALLS,
    indent=st.sampled_from([None, 1, 4]),
    ascii_only=st.booleans(),
    around=st.sampled_from([("Action: ```json\n", "\n```"), ("Action:", ""), ("```json\n", "```"), ("", " Done [1].")]),
)
def test_what_is_written_is_read(
    calls: list[ToolCall], indent: int | None, ascii_only: bool, around: tuple[str, str]
) -> None:
    reply = dumps(calls, indent=indent, ensure_ascii=ascii_only).join(around)
    assert parse_actions(reply) == calls


@given(st.text(st.sampled_from(list('Action: `json[]{}"",tool_name\n\\0123'))))
def test_any_text_is_read_or_refused(reply: str) -> None:
    try:
        calls = parse_actions(reply)
    except FormatError:
        return
    assert all(isinstance(call, ToolCall) for call in calls)


def test_a_call_as_text() -> None:
    call = ToolCall("book_table", {"restaurant": 'Zum "Löwen"', "people": 4, "outside": True, "tags": ["a"]})
    assert str(call) == 'book_table(restaurant="Zum \\"Löwen\\"", people=4, outside=true, tags=["a"])'
    assert str(ToolCall("get_time")) == "get_time()"
