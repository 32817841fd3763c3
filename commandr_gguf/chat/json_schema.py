"""Tools in their two notations, and the way from each to the other: Cohere's parameter definitions and JSON schema.

Cohere's prompts show a parameter's type as Python has it, `List[str]`; JSON schema says more, such as which values are
allowed. A checked tool carries both: the first is what the model reads, the second what its calls must keep to.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class Parameter(TypedDict):
    """One parameter of a tool."""

    description: str
    type: str
    """As in Python: str, int, float, bool, List[str] and so on."""
    required: bool


class _CohereTool(TypedDict):
    name: str
    description: str
    parameter_definitions: dict[str, Parameter]


class Tool(_CohereTool, total=False):
    """One tool, in Cohere's form."""

    parameters: dict[str, Any]
    """The JSON schema of all parameters, an object's; in every tool that was checked."""


_PYTHON_NAMES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "array": "List"}
_JSON_NAMES = {
    **{python: name for name, python in _PYTHON_NAMES.items()},
    **{name: name for name in (*_PYTHON_NAMES, "object", "null")},
    **dict.fromkeys(("list", "tuple", "Tuple", "set", "Set", "Sequence", "Iterable"), "array"),
    **dict.fromkeys(("dict", "Dict", "Mapping"), "object"),
    "None": "null",
}
_JSON_TYPES = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"))


def to_json_schema(tool: Tool) -> dict[str, Any]:
    """The JSON schema of a tool's parameters: `{"type": "object", "properties": ..., "required": [...]}`."""
    if "parameters" in tool:
        return tool["parameters"]
    definitions = tool["parameter_definitions"]
    properties = {}
    for name, definition in definitions.items():
        description = {"description": definition["description"]} if definition["description"] else {}
        properties[name] = schema_of_type(definition["type"]) | description
    required = [name for name, definition in definitions.items() if definition["required"]]
    return {"type": "object", "properties": properties, "required": required}


def to_openai(tool: Tool) -> dict[str, Any]:
    """A tool as OpenAI's interface and Cohere's second one have it."""
    function = {"name": tool["name"], "description": tool["description"], "parameters": to_json_schema(tool)}
    return {"type": "function", "function": function}


def to_parameter_definitions(schema: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of an object's JSON schema in Cohere's form.

    Allowed values, which a Python type does not name, are added to the description: the model sees nothing else.
    """
    required = schema.get("required") or []
    definitions = {}
    for name, value in (schema.get("properties") or {}).items():
        resolved = _resolved(value, schema)
        description = " ".join(filter(None, [str(resolved.get("description") or ""), _choices(resolved, schema)]))
        try:
            kind = type_of_schema(value, schema)
        except RecursionError:  # a schema that contains itself without end
            kind = "Any"
        definitions[name] = Parameter(description=description, type=kind, required=name in required)
    return definitions


def type_of_schema(schema: Any, root: Mapping[str, Any]) -> str:
    """The Python type, as Cohere's prompts write it, of a value's JSON schema.

    Args:
        schema: of the value.
        root: the schema that it is a part of, in which references are looked up.
    """
    schema = _resolved(schema, root)
    options = [_type_of(option, root) for option in _options(schema)]
    names = list(dict.fromkeys(name for name in options if name != "None")) or ["Any"]
    return names[0] if len(names) == 1 else f"Union[{', '.join(names)}]"


def schema_of_type(text: str) -> dict[str, Any]:
    """The JSON schema of a type written as in Python, or by its JSON name; {} for what is neither."""
    try:
        return _schema_of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return {}


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a chain of references within `root` leads to; its own description goes before that of its target."""
    result = schema if isinstance(schema, Mapping) else {}
    seen: set[str] = set()
    while isinstance(reference := result.get("$ref"), str) and reference not in seen:
        seen.add(reference)
        target: Any = root
        for part in reference.removeprefix("#").split("/")[1:]:
            target = target.get(part) if isinstance(target, Mapping) else None
        own = {key: value for key, value in result.items() if key != "$ref"}
        result = {**(target if isinstance(target, Mapping) else {}), **own}
    return result


def _options(schema: Mapping[str, Any]) -> Sequence[Any]:
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            return schema[key]  # type: ignore[no-any-return]
    if isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1:
        return schema["allOf"]  # type: ignore[no-any-return]
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": name} for name in schema["type"]]
    return [schema]


def _type_of(schema: Any, root: Mapping[str, Any]) -> str:
    schema = _resolved(schema, root)
    options = _options(schema)
    if len(options) != 1 or options[0] is not schema:
        return type_of_schema(schema, root)
    name = schema.get("type")
    if name is None:
        values = schema.get("enum", [schema["const"]] if "const" in schema else [])
        types = dict.fromkeys(_json_type(value) for value in values if value is not None)
        kinds = [_type_of({"type": kind}, root) for kind in types]
        return kinds[0] if len(kinds) == 1 else f"Union[{', '.join(kinds)}]" if kinds else "Any"
    if name == "array":
        return f"List[{type_of_schema(schema['items'], root)}]" if schema.get("items") else "List"
    if name == "object":
        values_of = schema.get("additionalProperties")
        return (
            f"Dict[str, {type_of_schema(values_of, root)}]" if isinstance(values_of, Mapping) and values_of else "Dict"
        )
    return "None" if name == "null" else _PYTHON_NAMES.get(str(name), "Any")


def _json_type(value: object) -> str:
    return next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null" if value is None else "object")


def _choices(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    for option in (schema, _resolved(schema.get("items"), root), *(_resolved(o, root) for o in _options(schema))):
        values = option.get("enum")
        if isinstance(values, list) and values:
            return f"One of: {', '.join(v if isinstance(v, str) else json.dumps(v) for v in values)}."
    return ""


def _schema_of(node: ast.expr) -> dict[str, Any]:
    if isinstance(node, ast.Constant):
        # A name in quotes is one as well, as in annotations.
        return schema_of_type(node.value) if isinstance(node.value, str) else _named("None")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([node.left, node.right])
    if isinstance(node, ast.Subscript):
        arguments = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _generic(_name(node.value), arguments)
    return _named(_name(node))


def _named(name: str) -> dict[str, Any]:
    return {"type": _JSON_NAMES[name]} if name in _JSON_NAMES else {}


def _generic(name: str, arguments: list[ast.expr]) -> dict[str, Any]:
    if name == "Literal":
        return {"enum": [ast.literal_eval(argument) for argument in arguments]}
    if name in {"Optional", "Union"}:
        return _union([*arguments, ast.Constant(None)] if name == "Optional" else arguments)
    schema = _named(name)
    if schema.get("type") == "array":
        return {**schema, "items": _schema_of(arguments[0])}
    if schema.get("type") == "object":
        return {**schema, "additionalProperties": _schema_of(arguments[-1])}
    return schema


def _union(nodes: Sequence[ast.expr]) -> dict[str, Any]:
    options: list[dict[str, Any]] = []
    for node in nodes:
        option = _schema_of(node)
        options += option["anyOf"] if set(option) == {"anyOf"} else [option]
    return {"anyOf": options}


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
