"""The tools that a model may call, in Cohere's form, as chat templates take them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from commandr_gguf.errors import ArgumentError


class Parameter(TypedDict):
    """One parameter of a tool."""

    description: str
    type: str
    """As in Python: str, int, float, bool, List[str] and so on."""
    required: bool


class Tool(TypedDict):
    """One tool."""

    name: str
    description: str
    parameter_definitions: dict[str, Parameter]


def normalize_tools(tools: Iterable[Mapping[str, Any]]) -> list[Tool]:
    """Check tools and fill in what they leave out: an empty description, no parameters, a parameter not required.

    Raises:
        ArgumentError: there is no tool, two have one name, or one is not in the form of `Tool`.
    """
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise ArgumentError("tools must be a list of {'name': ..., 'description': ..., 'parameter_definitions': ...}")
    result = [_tool(number, tool) for number, tool in enumerate(tools)]
    if not result:
        raise ArgumentError("tools must hold at least one tool")
    names = [tool["name"] for tool in result]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"two tools have the name {name!r}")
    return result


def _tool(number: int, tool: object) -> Tool:
    values = _known(f"tool {number}", tool, {"name": str, "description": str, "parameter_definitions": Mapping})
    name = values.get("name")
    if not name:
        raise ArgumentError(f"tool {number} has no name")
    parameters = values.get("parameter_definitions", {})
    return Tool(
        name=name,
        description=values.get("description", ""),
        parameter_definitions={key: _parameter(name, key, value) for key, value in parameters.items()},
    )


def _parameter(tool: str, name: object, value: object) -> Parameter:
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"tool {tool!r} has the parameter {name!r}; names must be strings")
    where = f"the parameter {name!r} of tool {tool!r}"
    values = _known(where, value, {"description": str, "type": str, "required": bool})
    if not values.get("type"):
        raise ArgumentError(f"{where} has no type")
    return Parameter(
        description=values.get("description", ""), type=values["type"], required=values.get("required", False)
    )


_TYPE_NAMES = {str: "a string", bool: "True or False", Mapping: "a mapping"}


def _known(where: str, value: object, kinds: Mapping[str, type]) -> Mapping[str, Any]:
    """`value`, when it is a mapping with these keys at most and values of these kinds."""
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{where} must be a mapping with {', '.join(map(repr, kinds))}, not {type(value).__name__}")
    for key, item in value.items():
        if key not in kinds:
            raise ArgumentError(f"{where} has the unknown key {key!r}; known are {', '.join(map(repr, kinds))}")
        if not isinstance(item, kinds[key]):
            raise ArgumentError(f"{where} must have {_TYPE_NAMES[kinds[key]]} under {key!r}, not {item!r}")
    return value
