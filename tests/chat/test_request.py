"""Documents, tools and results of tools choose what shows a request."""

from __future__ import annotations

from typing import Any

import pytest

from commandr_gguf import ArgumentError, UnsupportedError
from commandr_gguf.chat.command_a import render_command_a
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

ANSWERED: list[dict[str, Any]] = [
    *DONE,
    {"role": "assistant", "content": "Found."},
    {"role": "user", "content": "And?"},
]


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
        (DONE, {"tools": [TOOL], "multi_step": False}, "rag"),
        (DONE, {"multi_step": False}, "rag"),
        (ANSWERED, {"tools": [TOOL], "multi_step": False}, "tool_use"),
        (ANSWERED, {"multi_step": False}, "default"),
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


def test_switches_of_the_later_models_are_shown_by_their_own_prompt() -> None:
    assert make_request(HELLO, family="cmd3").template == "default"
    texts = set()
    for options in (
        {"safety_mode": "contextual"},
        {"safety_mode": "none"},
        {"reasoning": True},
        {"reasoning": False, "documents": ["a"]},
        {"reasoning": False, "documents": ["a"], "citation_mode": "off"},
    ):
        request = make_request(HELLO, family="cmd3", **options)
        assert chosen(request) == ("cmd3", "cmd3")
        texts.add(render_command_a(request.data, "cmd3"))
    assert len(texts) == 5


def test_results_of_the_only_step_are_the_documents_of_the_answer() -> None:
    asked: list[dict[str, Any]] = [
        *ANSWERED,
        {"role": "assistant", "tool_calls": [{"id": "b", "name": "find"}, {"id": "c", "name": "find"}]},
    ]
    last: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": "c", "content": "text"},
        {"role": "tool", "content": [{"id": "x", "n": 3}]},
    ]
    request = make_request([*asked, *last], tools=[TOOL], citation_mode="fast", multi_step=False)
    assert chosen(request) == ("rag", "grounded")
    assert request.data["messages"] == [*HELLO, *ANSWERED[-2:]]
    assert request.data["documents"] == [{"output": "text"}, {"id": "x", "n": "3"}]
    assert request.citable == [CheckedDocument("c:0", {"output": "text"}), CheckedDocument("x", {"id": "x", "n": 3})]
    assert (request.tools, request.data["tools"], request.citation_mode) == (None, None, "fast")
    nothing = make_request([*CALLED, {"role": "tool", "content": []}], tools=[TOOL], multi_step=False)
    assert (*chosen(nothing), nothing.data["documents"]) == ("rag", "grounded", [])


def test_results_stand_behind_documents_that_are_given() -> None:
    request = make_request(DONE, documents=["a"])
    assert request.data["messages"] == HELLO
    assert request.data["documents"] == [{"text": "a"}, {"title": "t"}, {"n": "2"}]
    assert [document.id for document in request.citable] == ["0", "a:0", "a:1"]
    earlier = make_request(ANSWERED, documents=["a"])
    assert (earlier.data["documents"], len(earlier.citable)) == ([{"text": "a"}], 1)


@pytest.mark.parametrize("options", [{"tools": [TOOL], "multi_step": False}, {"multi_step": False}, {"documents": []}])
def test_prompts_of_one_step_show_words_only(options: dict[str, Any]) -> None:
    request = make_request(ANSWERED, **options)
    assert request.data["messages"] == [*HELLO, *ANSWERED[-2:]]
    assert request.citable == []
    more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "So."}, *HELLO]
    joined = [{"role": "user", "content": "Hello\n\nAnd?"}, *more[1:]]
    assert make_request([*DONE, *more], **options).data["messages"] == joined
    assert make_request([*HELLO, *HELLO], **options).data["messages"] == [*HELLO, *HELLO]  # a template may refuse it
    with pytest.raises(ArgumentError, match="nothing but calls of tools and their results"):
        make_request(DONE[1:], **options)


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
        ({"documents": ["a"], "citation_mode": "exact"}, ArgumentError, "must be 'accurate', 'fast' or 'off'"),
        ({"documents": ["a"], "multi_step": True}, ArgumentError, "documents cannot be given for multi_step"),
        ({"documents": ["a"], "citation_mode": "off"}, ArgumentError, "citation_mode 'off' is for Command R7B"),
        ({"safety_mode": "strict"}, ArgumentError, "safety_mode is for Command R7B and Command A"),
        ({"reasoning": False}, ArgumentError, "reasoning is for Command R7B and Command A"),
        ({"safety_mode": "lax", "family": "cmd3"}, ArgumentError, "must be 'contextual', 'strict' or 'none'"),
        ({"reasoning": 1, "family": "cmd4"}, ArgumentError, "reasoning must be True or False, not 1"),
        ({"multi_step": 1}, ArgumentError, "multi_step must be True or False, not 1"),
        ({"documents": ["a"], "family": "cmd5"}, UnsupportedError, "of the kind cmd5; tools and documents are known"),
    ],
)
def test_requests_that_make_no_sense(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_request(HELLO, **options)
