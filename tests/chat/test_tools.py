"""Tools in every form become one."""

from __future__ import annotations

from typing import Any

import pytest

from commandr_gguf import ArgumentError
from commandr_gguf.chat.tools import normalize_tools, to_json_schema, to_openai

TOOL = {
    "name": "find",
    "description": "Finds.",
    "parameter_definitions": {"q": {"description": "What.", "type": "str", "required": True}},
}
SCHEMA = {"type": "object", "properties": {"q": {"type": "string", "description": "What."}}, "required": ["q"]}
OPENAI = {"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": SCHEMA}}


def find(q: str) -> str:
    """Finds.

    Args:
        q: What.
    """
    return q


@pytest.mark.parametrize("tool", [TOOL, OPENAI, {"function": OPENAI["function"]}, OPENAI["function"], find])
def test_every_form_gives_the_same_tool(tool: Any) -> None:
    assert normalize_tools([tool]) == [TOOL | {"parameters": SCHEMA}]


def test_a_checked_tool_may_be_checked_again() -> None:
    tools = normalize_tools([find, {"name": "time"}])
    assert normalize_tools(tools) == tools
    assert normalize_tools([to_openai(tool) for tool in tools]) == tools


def test_schemas_are_kept_whole() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 1}, "p": {"$ref": "#/$defs/P"}},
        "required": ["n"],
        "additionalProperties": False,
        "$defs": {"P": {"type": "object", "properties": {"x": {"type": "number"}}}},
    }
    (tool,) = normalize_tools([{"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}])
    assert to_json_schema(tool) == schema
    assert {name: value["type"] for name, value in tool["parameter_definitions"].items()} == {"n": "int", "p": "Dict"}


def test_what_tools_leave_out_is_filled_in() -> None:
    tools: list[dict[str, Any]] = [
        {"name": "time"},
        {"name": "find", "parameter_definitions": {"q": {"type": "str"}}},
        {"type": "function", "function": {"name": "now", "description": None, "parameters": None}},
        {"type": "function", "function": {"name": "then", "parameters": {}}},
    ]
    empty = {"type": "object", "properties": {}, "required": []}
    time, found, now, then = normalize_tools(tools)
    assert time == {"name": "time", "description": "", "parameter_definitions": {}, "parameters": empty}
    assert found["parameter_definitions"] == {"q": {"description": "", "type": "str", "required": False}}
    assert now == time | {"name": "now"}
    assert then == time | {"name": "then"}


def schema(**values: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "a", "parameters": values}}]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([], "at least one tool"),
        ("find", "tools must be a list"),
        (TOOL, "tools must be a list"),
        (find, "tools must be a list"),
        (["find"], "tool 0 must be a function or a mapping, not str"),
        ([{"description": "a"}], "tool 0 has no name"),
        ([{"name": ""}], "tool 0 has no name"),
        ([{"name": 3}], "tool 0 must have a string under 'name', not 3"),
        ([{"type": "function", "function": {}}], "tool 0 has no name"),
        ([{"type": "function"}], "tool 0 must be a mapping with"),
        ([{"type": "function", "function": "find"}], "tool 0 must have a mapping under 'function', not 'find'"),
        ([{"type": "retrieval", "function": {"name": "a", "params": {}}}], "tool 0 has the unknown key 'params'"),
        ([TOOL | {"returns": "str"}], "tool 0 has the unknown key 'returns'"),
        ([TOOL, find], "two tools have the name 'find'"),
        ([{"name": "a", "parameter_definitions": []}], "tool 0 must have a mapping under 'parameter_definitions'"),
        ([{"name": "a", "parameter_definitions": {"q": "str"}}], "the parameter 'q' of tool 'a' must be a mapping"),
        ([{"name": "a", "parameter_definitions": {"q": {}}}], "the parameter 'q' of tool 'a' has no type"),
        ([{"name": "a", "parameter_definitions": {"": {"type": "str"}}}], "tool 'a' has the parameter ''"),
        (
            [{"name": "a", "parameter_definitions": {"q": {"type": "str", "required": "yes"}}}],
            "the parameter 'q' of tool 'a' must have True or False under 'required', not 'yes'",
        ),
        (schema(type="array"), "the parameters of tool 'a' must have the type 'object', not 'array'"),
        (schema(properties=[]), "the parameters of tool 'a' must have a mapping under 'properties'"),
        (schema(properties={"q": "str"}), "the parameter 'q' of tool 'a' must be a JSON schema, not 'str'"),
        (schema(required="q"), "the parameters of tool 'a' must have a list under 'required'"),
        (schema(required=["q"]), "the parameter 'q' of tool 'a' is required, but not among its properties"),
        (schema(properties={"q": {"default": b""}}), "the parameters of tool 'a' are no JSON schema"),
        (schema(properties={"q": {"default": object()}}), "the parameters of tool 'a' are no JSON schema"),
    ],
)
def test_what_is_no_tool_is_refused(tools: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        normalize_tools(tools)
