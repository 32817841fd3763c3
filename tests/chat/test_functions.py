"""Python functions become tools."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, TypedDict, Union

import pytest

from commandr_gguf import ArgumentError
from commandr_gguf.chat.functions import tool_of
from commandr_gguf.chat.json_schema import to_json_schema


def google(city: str, days: int = 3, units: Literal["metric", "imperial"] = "metric") -> str:
    """Gives the weather.

    It may be wrong.

    Args:
        city: The city, such as Oslo.
        days: How many days,
            from today.
        units: Of the temperature.

    Returns:
        A text.
    """
    return f"{city} {days} {units}"


def numpy(city: str, days: int = 3) -> None:
    """
    Gives the weather.

    Parameters
    ----------
    city : str
        The city, such as Oslo.
    days : int, optional
        How many days.
    """


def sphinx(city: str, days: int = 3) -> None:
    """Gives the weather.

    :param city: The city, such as Oslo.
    :param days: How many days.
    """


def bare(a, b: int = 1, c=2.5, *, d=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    return a, b, c, d


OLD_OPTIONAL = Optional[int]  # noqa: UP045  # as many still write it
OLD_UNION = Union[int, str]  # noqa: UP007


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0


class Person(TypedDict, total=False):
    name: str


class Described:
    @staticmethod
    def model_json_schema() -> dict[str, Any]:
        return {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}, "$defs": {"P": {"type": "integer"}}}


def test_a_function_with_a_docstring() -> None:
    assert tool_of(google) == {
        "name": "google",
        "description": "Gives the weather.\n\nIt may be wrong.",
        "parameter_definitions": {
            "city": {"description": "The city, such as Oslo.", "type": "str", "required": True},
            "days": {"description": "How many days,\nfrom today.", "type": "int", "required": False},
            "units": {"description": "Of the temperature. One of: metric, imperial.", "type": "str", "required": False},
        },
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city, such as Oslo."},
                "days": {"type": "integer", "description": "How many days,\nfrom today.", "default": 3},
                "units": {
                    "type": "string",
                    "enum": ["metric", "imperial"],
                    "description": "Of the temperature.",
                    "default": "metric",
                },
            },
            "required": ["city"],
        },
    }


@pytest.mark.parametrize("function", [numpy, sphinx])
def test_other_styles_of_docstrings(function: Callable[..., Any]) -> None:
    tool = tool_of(function)
    assert tool["description"] == "Gives the weather."
    assert tool["parameter_definitions"] == {
        "city": {"description": "The city, such as Oslo.", "type": "str", "required": True},
        "days": {"description": "How many days.", "type": "int", "required": False},
    }


def test_a_function_with_nothing_but_names() -> None:
    tool = tool_of(bare)
    assert tool["description"] == ""
    types = {name: (d["type"], d["required"]) for name, d in tool["parameter_definitions"].items()}
    assert types == {"a": ("Any", True), "b": ("int", False), "c": ("float", False), "d": ("Any", False)}
    assert to_json_schema(tool)["properties"]["d"] == {"default": None}


def test_types_of_a_docstring_stand_in_for_annotations() -> None:
    def find(words, limit=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        """Finds.

        Args:
            words (list[str]): What to find.
            limit (int): How many.
        """

    types = {name: d["type"] for name, d in tool_of(find)["parameter_definitions"].items()}
    assert types == {"words": "List[str]", "limit": "int"}


def test_methods_leave_out_self() -> None:
    class Shop:
        def order(self, what: str) -> None:
            """Orders."""

    assert list(tool_of(Shop().order)["parameter_definitions"]) == ["what"]


@pytest.mark.parametrize(
    ("annotation", "name", "schema"),
    [
        (bool, "bool", {"type": "boolean"}),
        (float, "float", {"type": "number"}),
        (Any, "Any", {}),
        (list, "List", {"type": "array"}),
        (list[str], "List[str]", {"type": "array", "items": {"type": "string"}}),
        (
            Sequence[list[int]],
            "List[List[int]]",
            {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        ),
        (set[int], "List[int]", {"type": "array", "items": {"type": "integer"}}),
        (tuple[int, ...], "List[int]", {"type": "array", "items": {"type": "integer"}}),
        (
            tuple[int, str],
            "List",
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2},
        ),
        (dict, "Dict", {"type": "object"}),
        (Mapping[str, int], "Dict[str, int]", {"type": "object", "additionalProperties": {"type": "integer"}}),
        (OLD_OPTIONAL, "int", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (str | None, "str", {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (OLD_UNION, "Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (Literal[1, 2], "int", {"type": "integer", "enum": [1, 2]}),
        (Literal[1, "a"], "Union[int, str]", {"enum": [1, "a"]}),
        (Color, "str", {"type": "string", "enum": ["red", "blue"]}),
        (dt.date, "str", {"type": "string", "format": "date"}),
        (
            Point,
            "Dict",
            {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x"]},
        ),
        (Person, "Dict", {"type": "object", "properties": {"name": {"type": "string"}}, "required": []}),
        (Annotated[int, "How many."], "int", {"type": "integer", "description": "How many."}),
    ],
)
def test_annotations(annotation: Any, name: str, schema: dict[str, Any]) -> None:
    def tool(value: Any) -> None: ...

    tool.__annotations__["value"] = annotation
    made = tool_of(tool)
    assert to_json_schema(made)["properties"]["value"] == schema
    assert made["parameter_definitions"]["value"]["type"] == name


def test_definitions_of_a_class_move_to_the_root_that_references_count_from() -> None:
    def tool(value: list[Described]) -> None: ...

    schema = to_json_schema(tool_of(tool))
    assert schema["$defs"] == {"P": {"type": "integer"}}
    assert schema["properties"]["value"]["items"] == {"type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}}


def test_defaults_that_json_does_not_have_are_left_out() -> None:
    def tool(when: dt.date = dt.date(2024, 1, 1), x: float = float("nan")) -> None: ...

    properties = to_json_schema(tool_of(tool))["properties"]
    assert properties == {"when": {"type": "string", "format": "date"}, "x": {"type": "number"}}


def positional(a: int, /) -> None: ...
def several(*values: int) -> None: ...
def named(**values: int) -> None: ...
def strange(a: bytes) -> None: ...
def odd(a: Literal[b"x"]) -> None: ...


def unknown(a: int) -> None: ...


unknown.__annotations__["a"] = "Missing"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (positional, "the parameter 'a' of tool 'positional' cannot be given by name"),
        (several, "the parameter 'values' of tool 'several' cannot be given by name"),
        (named, "the parameter 'values' of tool 'named' cannot be given by name"),
        (strange, "the parameter 'a' of tool 'strange' has the type bytes, which no JSON schema is known for"),
        (odd, "the parameter 'a' of tool 'odd' allows values that JSON does not have"),
        (unknown, "the signature of tool 'unknown' cannot be read: name 'Missing' is not defined"),
        (lambda: None, "has no name"),
    ],
)
def test_functions_that_are_no_tools(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        tool_of(function)


def test_annotations_that_cannot_be_evaluated_are_told() -> None:
    def f(city: os.Nope) -> None:  # type: ignore[name-defined]
        """Gets."""

    with pytest.raises(ArgumentError, match="the signature of tool 'f' cannot be read: module 'os' has no attribute"):
        tool_of(f)
