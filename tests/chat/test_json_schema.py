"""Types go from Python's notation to JSON schema and back."""

from __future__ import annotations

from typing import Any

import pytest

from commandr_gguf.chat.json_schema import (
    Parameter,
    Tool,
    schema_of_type,
    to_json_schema,
    to_openai,
    to_parameter_definitions,
    type_of_schema,
)

COHERE = Tool(
    name="find",
    description="Finds.",
    parameter_definitions={
        "query": Parameter(description="What.", type="str", required=True),
        "limit": Parameter(description="", type="Optional[int]", required=False),
        "tags": Parameter(description="Any tags.", type="List[str]", required=False),
    },
)


def test_cohere_form_to_json_schema() -> None:
    assert to_json_schema(COHERE) == {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What."},
            "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "tags": {"type": "array", "items": {"type": "string"}, "description": "Any tags."},
        },
        "required": ["query"],
    }
    assert to_openai(COHERE) == {
        "type": "function",
        "function": {"name": "find", "description": "Finds.", "parameters": to_json_schema(COHERE)},
    }


def test_a_schema_that_is_there_is_taken_as_it_is() -> None:
    schema = {"type": "object", "properties": {"query": {"type": "string", "minLength": 2}}, "required": []}
    assert to_json_schema(Tool(**COHERE, parameters=schema)) is schema


def test_json_schema_to_cohere_form() -> None:
    definitions = to_parameter_definitions(to_json_schema(COHERE))
    assert {name: definition["type"] for name, definition in definitions.items()} == {
        "query": "str",
        "limit": "int",
        "tags": "List[str]",
    }
    assert [definition["required"] for definition in definitions.values()] == [True, False, False]
    assert [definition["description"] for definition in definitions.values()] == ["What.", "", "Any tags."]


@pytest.mark.parametrize(
    "text", ["str", "int", "float", "bool", "List", "Dict", "List[str]", "List[List[int]]", "Dict[str, bool]"]
)
def test_types_come_back(text: str) -> None:
    schema = schema_of_type(text)
    assert schema != {}
    assert type_of_schema(schema, {}) == text


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        (" string ", {"type": "string"}),
        ("object", {"type": "object"}),
        ("list[str]", {"type": "array", "items": {"type": "string"}}),
        ("typing.List['str']", {"type": "array", "items": {"type": "string"}}),
        ("Dict[str, Any]", {"type": "object", "additionalProperties": {}}),
        ("int | str | None", {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]}),
        ("Union[int, Optional[str]]", {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]}),
        ("Literal['a', 2]", {"enum": ["a", 2]}),
        ("Any", {}),
        ("MyClass", {}),
        ("a b c", {}),
        ("", {}),
        ("Literal[x]", {}),
        ("f(1)", {}),
    ],
)
def test_notations_of_types(text: str, schema: dict[str, Any]) -> None:
    assert schema_of_type(text) == schema


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({}, "Any"),
        (True, "Any"),
        ({"type": "null"}, "Any"),
        ({"type": ["string", "null"]}, "str"),
        ({"type": ["string", "integer"]}, "Union[str, int]"),
        ({"enum": ["a", "b"]}, "str"),
        ({"enum": [1, 2.5, None]}, "Union[int, float]"),
        ({"const": True}, "bool"),
        ({"type": "array", "items": {"$ref": "#/$defs/A"}}, "List[int]"),
        ({"allOf": [{"$ref": "#/$defs/A"}], "description": "x"}, "int"),
        ({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}, "Union[str, List[str]]"),
        ({"type": "object", "additionalProperties": False}, "Dict"),
        ({"$ref": "#/$defs/B"}, "Any"),
        ({"$ref": "#/$defs/absent"}, "Any"),
        ({"type": "vector"}, "Any"),
    ],
)
def test_schemas_as_types(schema: Any, text: str) -> None:
    root = {"$defs": {"A": {"type": "integer"}, "B": {"$ref": "#/$defs/B"}}}
    assert type_of_schema(schema, root) == text


def test_allowed_values_are_told_in_the_description() -> None:
    schema = {
        "properties": {
            "unit": {"enum": ["m", "km"], "description": "Of length."},
            "sizes": {"type": "array", "items": {"enum": [1, 2]}},
            "level": {"anyOf": [{"$ref": "#/$defs/Level"}, {"type": "null"}]},
        },
        "$defs": {"Level": {"type": "string", "enum": ["low"]}},
    }
    descriptions = {name: value["description"] for name, value in to_parameter_definitions(schema).items()}
    assert descriptions == {"unit": "Of length. One of: m, km.", "sizes": "One of: 1, 2.", "level": "One of: low."}


def test_a_type_that_contains_itself_is_any() -> None:
    schema = {
        "properties": {"x": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}}},
    }
    assert to_parameter_definitions(schema)["x"]["type"] == "Any"
