"""Documents and tools are checked before a template sees them, and choose the template."""

from __future__ import annotations

from typing import Any

import pytest

from commandr_gguf import ArgumentError
from commandr_gguf.chat.documents import normalize_documents
from commandr_gguf.chat.request import make_request
from commandr_gguf.chat.tools import normalize_tools

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "name": "find",
    "description": "Finds.",
    "parameter_definitions": {"q": {"description": "What.", "type": "str", "required": True}},
}


def test_requests_choose_their_template() -> None:
    plain = make_request(HELLO)
    assert (plain.template, plain.data) == ("default", {"messages": HELLO, "documents": None, "tools": None})
    grounded = make_request(iter(HELLO), ["a", {"title": "b", "text": "c"}], citation_mode="fast")
    assert (grounded.template, grounded.citation_mode) == ("rag", "fast")
    assert grounded.data["documents"] == [{"text": "a"}, {"title": "b", "text": "c"}]
    assert make_request(HELLO, documents=[]).template == "rag"  # a search that found nothing
    tools = make_request(HELLO, tools=[TOOL])
    assert (tools.template, tools.citation_mode, tools.data["tools"]) == ("tool_use", "accurate", [TOOL])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": ["a"], "tools": [TOOL]}, "documents and tools cannot be given together"),
        ({"documents": ["a"], "citation_mode": "exact"}, "citation_mode must be 'accurate' or 'fast', not 'exact'"),
    ],
)
def test_requests_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make_request(HELLO, **options)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("a text", "documents must be a list"),
        ({"text": "a"}, "documents must be a list"),
        (3, "documents must be a list"),
        (["a", 3], "document 1 must be a string or a mapping, not int"),
        ([{"title": "a", "text": 3}], "document 0 must have a string under 'text', not int"),
        ([{"data": {"text": "a"}}], "document 0 must have a string under 'data', not dict"),
        ([{3: "a"}], "document 0 has the key 3; keys must be strings"),
        (["a", ""], "document 1 is empty"),
        ([{}], "document 0 is empty"),
        ([{"title": ""}], "document 0 is empty"),
    ],
)
def test_what_is_no_document_is_refused(documents: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        normalize_documents(documents)


def test_what_tools_leave_out_is_filled_in() -> None:
    tools: list[dict[str, Any]] = [{"name": "time"}, {"name": "find", "parameter_definitions": {"q": {"type": "str"}}}]
    assert normalize_tools(tools) == [
        {"name": "time", "description": "", "parameter_definitions": {}},
        {
            "name": "find",
            "description": "",
            "parameter_definitions": {"q": {"description": "", "type": "str", "required": False}},
        },
    ]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([], "at least one tool"),
        ("find", "tools must be a list"),
        (TOOL, "tools must be a list"),
        (["find"], "tool 0 must be a mapping with 'name', 'description', 'parameter_definitions', not str"),
        ([{"description": "a"}], "tool 0 has no name"),
        ([{"name": ""}], "tool 0 has no name"),
        ([{"name": 3}], "tool 0 must have a string under 'name', not 3"),
        ([{"type": "function", "function": {"name": "find"}}], "tool 0 has the unknown key 'type'"),
        ([TOOL, TOOL], "two tools have the name 'find'"),
        ([{"name": "a", "parameter_definitions": []}], "tool 0 must have a mapping under 'parameter_definitions'"),
        ([{"name": "a", "parameter_definitions": {"q": "str"}}], "the parameter 'q' of tool 'a' must be a mapping"),
        ([{"name": "a", "parameter_definitions": {"q": {}}}], "the parameter 'q' of tool 'a' has no type"),
        ([{"name": "a", "parameter_definitions": {"": {"type": "str"}}}], "tool 'a' has the parameter ''"),
        (
            [{"name": "a", "parameter_definitions": {"q": {"type": "str", "required": "yes"}}}],
            "the parameter 'q' of tool 'a' must have True or False under 'required', not 'yes'",
        ),
    ],
)
def test_what_is_no_tool_is_refused(tools: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        normalize_tools(tools)
