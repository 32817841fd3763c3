"""Documents, tools and results of tools choose what shows a request."""

from __future__ import annotations

from typing import Any

import pytest

from commandr_gguf import ArgumentError, UnsupportedError
from commandr_gguf.chat.documents import CheckedDocument
from commandr_gguf.chat.request import Request, make_request
from commandr_gguf.chat.tools import normalize_tools

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "name": "find",
    "description": "Finds.",
    "parameter_definitions": {"q": {"description": "What.", "type": "str", "required": True}},
}
CALLED: list[dict[str, Any]] = [
    *HELLO,
    {"role": "assistant", "tool_plan": "Look.", "tool_calls": [{"id": "a", "name": "find", "parameters": {"q": "é"}}]},
]
DONE: list[dict[str, Any]] = [*CALLED, {"role": "tool", "tool_call_id": "a", "content": [{"title": "t"}, {"n": 2}]}]


def chosen(request: Request) -> tuple[str, str]:
    return request.template, request.reply_format


def test_requests_choose_their_template() -> None:
    plain = make_request(HELLO)
    assert chosen(plain) == ("default", "chat")
    assert plain.data == {"messages": HELLO, "documents": None, "tools": None}
    grounded = make_request(iter(HELLO), ["a", {"title": "b", "text": "c"}], citation_mode="fast")
    assert chosen(grounded) == ("rag", "grounded")
    assert grounded.citation_mode == "fast"
    assert grounded.documents == [
        CheckedDocument("0", {"text": "a"}),
        CheckedDocument("1", {"title": "b", "text": "c"}),
    ]
    assert grounded.data["documents"] == [{"text": "a"}, {"title": "b", "text": "c"}]
    assert make_request(HELLO, documents=[]).template == "rag"  # a search that found nothing
    tools = make_request(HELLO, tools=[TOOL])
    assert chosen(tools) == ("tool_use", "tools")
    assert (tools.citation_mode, tools.data["tools"], tools.tools) == ("accurate", [TOOL], normalize_tools([TOOL]))


@pytest.mark.parametrize(
    ("messages", "options", "template"),
    [
        (HELLO, {"tools": [TOOL], "multi_step": True}, "multi_step"),
        (HELLO, {"multi_step": True}, "multi_step"),
        (CALLED, {"tools": [TOOL]}, "tool_use"),
        (DONE, {"tools": [TOOL]}, "multi_step"),
        (DONE, {}, "multi_step"),
        (DONE, {"tools": [TOOL], "multi_step": False}, "tool_use"),
        (DONE, {"multi_step": False}, "default"),
        (DONE, {"documents": ["a"]}, "rag"),
    ],
)
def test_results_of_tools_choose_the_multi_step_prompt(messages: Any, options: dict[str, Any], template: str) -> None:
    request = make_request(messages, **options)
    formats = {"multi_step": "multi_step", "tool_use": "tools", "default": "chat", "rag": "grounded"}
    assert chosen(request) == (template, formats[template])


@pytest.mark.parametrize("family", ["cmd3", "cmd4"])
def test_one_prompt_of_the_later_models_shows_documents_and_tools(family: Any) -> None:
    assert chosen(make_request(HELLO, family=family)) == ("default", family)
    assert chosen(make_request(HELLO, documents=[], family=family)) == ("default", family)
    requests: list[dict[str, Any]] = [{"documents": ["a"]}, {"tools": [TOOL]}, {"documents": ["a"], "tools": [TOOL]}]
    for options in requests:
        assert chosen(make_request(HELLO, **options, family=family)) == (family, family)
    assert chosen(make_request(CALLED, family=family)) == (family, family)
    assert chosen(make_request(DONE, tools=[TOOL], multi_step=False, family=family)) == (family, family)


def test_calls_and_results_are_text_where_a_template_knows_no_tools() -> None:
    request = make_request(DONE, documents=["a"])
    action = 'Action: ```json\n[\n    {\n        "tool_name": "find",\n        "parameters": {\n            "q": "é"\n'
    assert request.data["messages"] == [
        *HELLO,
        {"role": "assistant", "content": f"Plan: Look.\n{action}        }}\n    }}\n]\n```"},
        {"role": "system", "content": "<results>\nDocument: 0\ntitle: t\n\nDocument: 1\nn: 2\n</results>"},
    ]


def test_what_a_reply_may_cite() -> None:
    calls: list[Any] = [{"id": "a", "name": "find"}, {"id": "b", "name": "find"}]
    answers = [
        {"role": "tool", "tool_call_id": "b", "content": "text"},
        {"role": "tool", "tool_call_id": "a", "content": [{"id": "x", "data": {"k": 1}}, {"k": 2}]},
        {"role": "assistant", "tool_calls": calls[:1]},
        {"role": "tool", "content": [{"k": 3}]},
    ]
    messages: list[Any] = [*HELLO, {"role": "assistant", "tool_calls": calls}, *answers]
    text = CheckedDocument("b:0", {"output": "text"})
    found = [CheckedDocument("x", {"k": 1}), CheckedDocument("a:1", {"k": 2})]
    last = CheckedDocument("a:0", {"k": 3})
    # Numbers of the multi-step prompt are those of the results as they came in.
    assert make_request(messages, tools=[TOOL]).citable == [text, *found, last]
    request = make_request(messages, ["d"], [TOOL], family="cmd3")
    given = CheckedDocument("0", {"text": "d"})
    assert request.citable_groups == [[given], found, [text], [last]]
    assert request.citable == [given, *found, text, last]
    assert make_request(messages, family="cmd4").citable_groups == [found, [text], [last]]
    assert make_request(HELLO, ["d"]).citable == [given]
    assert make_request(HELLO).citable == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"documents": ["a"], "tools": [TOOL]}, ArgumentError, "documents and tools cannot be given together"),
        ({"documents": ["a"], "citation_mode": "exact"}, ArgumentError, "citation_mode must be 'accurate' or 'fast'"),
        ({"documents": ["a"], "multi_step": True}, ArgumentError, "documents cannot be given for multi_step"),
        ({"multi_step": 1}, ArgumentError, "multi_step must be True or False, not 1"),
        ({"documents": ["a"], "family": "cmd5"}, UnsupportedError, "of the kind cmd5; tools and documents are known"),
    ],
)
def test_requests_that_make_no_sense(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_request(HELLO, **options)
