"""The tools that a model may call, in whatever form people have them, checked and brought into one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from commandr_gguf.chat.functions import tool_of
from commandr_gguf.chat.json_schema import (
    Parameter,
    Tool,
    to_json_schema,
    to_openai,
    to_parameter_definitions,
)
from commandr_gguf.errors import ArgumentError

__all__ = ["Parameter", "Tool", "normalize_tools", "to_json_schema", "to_openai", "to_parameter_definitions"]

_FORMS = "functions or mappings, such as {'name': ..., 'description': ..., 'parameter_definitions': ...}"


def normalize_tools(tools: Iterable[Mapping[str, Any] | Callable[..., Any]]) -> list[Tool]:
    """Check tools and bring them into one form, Cohere's with a JSON schema beside it.

    A tool is one of

    - a Python function, see `functions.tool_of`;
    - `{"type": "function", "function": {"name", "description", "parameters"}}`, or the inner mapping alone, where
      parameters is an object's JSON schema;
    - `{"name", "description", "parameter_definitions": {name: {"description", "type", "required"}}}`.

    What is left out is filled in: an empty description, no parameters, a parameter not required.

    Raises:
        ArgumentError: there is no tool, two have one name, or one is in none of these forms.
    """
    if isinstance(tools, (str, bytes, Mapping)) or not isinstance(tools, Iterable):
        raise ArgumentError(f"tools must be a list of {_FORMS}")
    result = [_tool(number, tool) for number, tool in enumerate(tools)]
    if not result:
        raise ArgumentError("tools must hold at least one tool")
    names = [tool["name"] for tool in result]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(f"two tools have the name {name!r}")
    return result


def _tool(number: int, tool: object) -> Tool:
    where = f"tool {number}"
    if isinstance(tool, Mapping):
        if "function" in tool or tool.get("type") == "function":
            outer = _known(where, tool, {"type": str, "function": Mapping})
            return _from_schema(number, outer.get("function"))
        if "parameters" in tool:
            return _from_schema(number, {key: tool[key] for key in tool if key != "parameter_definitions"})
        return _from_definitions(where, tool)
    if callable(tool):
        return tool_of(tool)
    raise ArgumentError(f"{where} must be a function or a mapping, not {type(tool).__name__}")


def _from_definitions(where: str, tool: Mapping[str, Any]) -> Tool:
    values = _known(where, tool, {"name": str, "description": str, "parameter_definitions": Mapping})
    name = _name(where, values)
    parameters = values.get("parameter_definitions", {})
    definitions = {key: _parameter(name, key, value) for key, value in parameters.items()}
    result = Tool(name=name, description=values.get("description", ""), parameter_definitions=definitions)
    return Tool(**result, parameters=to_json_schema(result))


def _parameter(tool: str, name: object, value: object) -> Parameter:
    where = _where(tool, name)
    values = _known(where, value, {"description": str, "type": str, "required": bool})
    if not values.get("type"):
        raise ArgumentError(f"{where} has no type")
    return Parameter(
        description=values.get("description", ""), type=values["type"], required=values.get("required", False)
    )


def _from_schema(number: int, tool: object) -> Tool:
    where = f"tool {number}"
    # Interfaces add keys of their own to a function, such as OpenAI's "strict".
    kinds = {"name": str, "description": str, "parameters": Mapping, "strict": bool}
    if isinstance(tool, Mapping):
        tool = {key: value for key, value in tool.items() if value is not None}
    values = _known(where, tool, kinds)
    name = _name(where, values)
    schema = _object_schema(name, values.get("parameters", {}))
    return Tool(
        name=name,
        description=values.get("description", ""),
        parameter_definitions=to_parameter_definitions(schema),
        parameters=schema,
    )


def _object_schema(tool: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    where = f"the parameters of tool {tool!r}"
    try:
        json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{where} are no JSON schema: {error}") from error
    if schema.get("type", "object") != "object":
        raise ArgumentError(f"{where} must have the type 'object', not {schema['type']!r}")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping):
        raise ArgumentError(f"{where} must have a mapping under 'properties', not {properties!r}")
    for name, value in properties.items():
        if not isinstance(value, (Mapping, bool)):
            raise ArgumentError(f"{_where(tool, name)} must be a JSON schema, not {value!r}")
    if not isinstance(required, list):
        raise ArgumentError(f"{where} must have a list under 'required', not {required!r}")
    for name in required:
        if name not in properties:
            raise ArgumentError(f"{_where(tool, name)} is required, but not among its properties")
    return {**schema, "type": "object", "properties": dict(properties), "required": required}


def _name(where: str, values: Mapping[str, Any]) -> str:
    name: str = values.get("name", "")
    if not name:
        raise ArgumentError(f"{where} has no name")
    return name


def _where(tool: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ArgumentError(f"tool {tool!r} has the parameter {name!r}; names must be strings")
    return f"the parameter {name!r} of tool {tool!r}"


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
