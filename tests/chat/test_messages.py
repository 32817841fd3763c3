"""Messages are checked before a template sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from commandr_gguf import ArgumentError, ToolCall
from commandr_gguf.chat.messages import normalize

HELLO = {"role": "user", "content": "Hello"}
FUNCTION = {"name": "find", "arguments": {"q": "é"}}
CALL = {"id": "c", "type": "function", "function": FUNCTION}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_text_parts_are_joined_and_other_keys_left_out() -> None:
    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]
    assert normalize([{"role": "user", "content": parts, "name": "x"}]) == [{"role": "user", "content": "Hello there"}]


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"id": "c", "function": FUNCTION},
        {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"q": "\\u00e9"}'}},
        {"id": "c", "name": "find", "parameters": {"q": "é"}},
        ToolCall("find", {"q": "é"}, "c"),
    ],
)
def test_every_form_of_a_call_gives_the_same(call: Any) -> None:
    assert normalize([{"role": "assistant", "tool_calls": [call]}]) == [CALLING]


@pytest.mark.parametrize(
    ("arguments", "expected"), [("", {}), (" ", {}), (None, {}), ("null", {}), ('{"a": "b\nc"}', {"a": "b\nc"})]
)
def test_arguments(arguments: Any, expected: Any) -> None:
    call = {"function": {"name": "find", "arguments": arguments}}
    (message,) = normalize([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert message["tool_calls"][0]["function"]["arguments"] == expected


@pytest.mark.parametrize(
    ("keys", "plan", "content"),
    [
        ({"tool_plan": "Look."}, "Look.", ""),
        ({"reasoning_content": "Look.", "content": None}, "Look.", ""),
        ({"content": "Look."}, "Look.", ""),
        ({"content": [{"type": "text", "text": "Look."}]}, "Look.", ""),
        ({"content": [{"type": "thinking", "thinking": "Look."}, {"type": "text", "text": "So."}]}, "Look.", "So."),
        ({"tool_plan": "Look.", "content": "So."}, "Look.", "So."),
    ],
)
def test_what_was_thought_before_calls(keys: dict[str, Any], plan: str, content: str) -> None:
    (message,) = normalize([{"role": "assistant", "tool_calls": [CALL], **keys}])
    assert message == {"role": "assistant", "content": content, "tool_plan": plan, "tool_calls": [CALL]}


def test_thoughts_without_calls_are_left_out() -> None:
    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "So."}]
    assert normalize([{"role": "assistant", "content": parts}]) == [{"role": "assistant", "content": "So."}]


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ({"a": 1}, [{"id": "c:0", "data": {"a": 1}}]),
        ('{"a": 1}', [{"id": "c:0", "data": {"a": 1}}]),
        ('[{"a": 1}, {"b": [2]}]', [{"id": "c:0", "data": {"a": 1}}, {"id": "c:1", "data": {"b": [2]}}]),
        ([{"a": 1}, "b"], [{"id": "c:0", "data": {"a": 1}}, {"id": "c:1", "data": {"output": "b"}}]),
        ([{"type": "document", "document": {"data": {"a": "b"}}}], [{"id": "c:0", "data": {"a": "b"}}]),
        ([{"type": "document", "document": {"id": "x", "data": '{"a": "b"}'}}], [{"id": "x", "data": {"a": "b"}}]),
        ([{"type": "document", "document": {"data": "b"}}], [{"id": "c:0", "data": {"output": "b"}}]),
        (
            [{"type": "text", "text": "b"}, {"type": "document", "document": {"data": {"a": "b"}}}],
            [{"id": "c:0", "data": {"output": "b"}}, {"id": "c:1", "data": {"a": "b"}}],
        ),
        ([], []),
        ("[]", []),
    ],
)
def test_results_as_documents(content: Any, documents: Any) -> None:
    message = normalize([CALLING, {"role": "tool", "tool_call_id": "c", "content": content}])[1]
    assert message == {"role": "tool", "content": "", "tool_call_id": "c", "documents": documents}


@pytest.mark.parametrize(
    "content", ["done", "{", "[1]", '"a"', "{}", "[{}]", '[1, {"a": 2}]', [{"type": "text", "text": "done"}]]
)
def test_results_as_text(content: Any) -> None:
    message = normalize([CALLING, {"role": "tool", "tool_call_id": "c", "content": content}])[1]
    assert message == {
        "role": "tool",
        "content": content if isinstance(content, str) else "done",
        "tool_call_id": "c",
    }


def test_results_without_an_id_belong_to_the_calls_in_their_order() -> None:
    calls = [ToolCall("a"), ToolCall("b")]
    done = [{"role": "tool", "content": "x"}, {"role": "tool", "content": "y"}]
    messages = normalize([HELLO, {"role": "assistant", "tool_calls": calls}, *done, CALLING, *done[:1]])
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["0", "1"]
    assert [message["tool_call_id"] for message in messages if message["role"] == "tool"] == ["0", "1", "c"]


def test_an_id_may_come_again_when_its_call_has_a_result() -> None:
    result = {"role": "tool", "tool_call_id": "c", "content": "x"}
    assert len(normalize([CALLING, result, result, CALLING, result])) == 5


def test_checked_messages_may_be_checked_again_and_go_through_json() -> None:
    results: list[Any] = [{"role": "tool", "content": [{"a": 1}]}, {"role": "tool", "content": "text"}]
    calling = {"role": "assistant", "tool_plan": "p", "content": "c", "tool_calls": [CALL, ToolCall("other")]}
    messages = normalize([{"role": "system", "content": ""}, HELLO, calling, *results])
    assert normalize(messages) == messages
    assert normalize(json.loads(json.dumps(messages))) == messages


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one message"),
        ("Hello", "must be a list"),
        (3, "must be a list"),
        (HELLO, "must be a list"),
        (["Hello"], "message 0 must be a mapping"),
        ([{"content": "Hello"}], "message 0 has the role None"),
        (
            [HELLO, {"role": "robot", "content": "b"}],
            "message 1 has the role 'robot'; known are system, user, assistant",
        ),
        ([{"role": "user"}], "message 0 has a content that is neither"),
        ([{"role": "assistant"}], "message 0 has a content that is neither"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "message 0 has a content that is neither"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 0 has a content that is neither"),
        ([{"role": "user", "content": 3}], "message 0 has a content that is neither"),
        ([HELLO | {"tool_calls": [CALL]}], "message 0 has tool_calls; only an assistant's message may"),
        ([CALLING | {"tool_calls": "find"}], "message 0 must have a list under 'tool_calls', not str"),
        ([CALLING | {"tool_calls": CALL}], "message 0 must have a list under 'tool_calls', not dict"),
        ([CALLING | {"tool_calls": ["find"]}], "message 0 has a call that is no mapping with 'function'"),
        ([CALLING | {"tool_calls": [{"id": "c"}]}], "message 0 has a call without a tool's name"),
        (
            [CALLING | {"tool_calls": [CALL, CALL]}],
            "message 0 has a call with the id 'c', which a call without a result",
        ),
        ([CALLING | {"tool_calls": [CALL | {"id": 3}]}], "message 0 has a call with the id 3; ids must be strings"),
        ([CALLING | {"tool_plan": 3}], "message 0 must have a string under 'tool_plan', not int"),
        ([CALLING | {"content": 3}], "message 0 has a content that is neither"),
        (
            [CALLING | {"tool_calls": [{"name": "find", "arguments": "{"}]}],
            "message 0: the arguments of the call of 'find' are not valid JSON",
        ),
        (
            [CALLING | {"tool_calls": [{"name": "find", "arguments": "[1]"}]}],
            "message 0: the arguments of the call of 'find' must be a mapping or a JSON object",
        ),
        (
            [CALLING | {"tool_calls": [ToolCall("find", {"a": b""})]}],
            "message 0: the arguments of the call of 'find' are no JSON",
        ),
        ([{"role": "tool", "content": "x"}], "message 0 is the result of no call"),
        (
            [CALLING, {"role": "tool", "tool_call_id": "d", "content": "x"}],
            "message 1 is the result of the call 'd', which no message before it has",
        ),
        ([CALLING, {"role": "tool", "tool_call_id": "c"}], "message 1 has a content that is neither"),
        (
            [CALLING, {"role": "tool", "tool_call_id": "c", "content": [{"a": b"x"}]}],
            "result 0 of message 1 under 'a' must have a text, a number or a nested value, not bytes",
        ),
        (
            [CALLING, {"role": "tool", "tool_call_id": "c", "content": [3]}],
            "result 0 of message 1 must be a string or a mapping, not int",
        ),
    ],
)
def test_what_is_no_conversation_is_refused(messages: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        normalize(messages)
