"""Python functions as tools: names and types from the signature, descriptions from the docstring."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime as dt
import enum
import inspect
import json
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, Union

import docstring_parser

from commandr_gguf.chat.json_schema import Tool, schema_of_type, to_parameter_definitions
from commandr_gguf.errors import ArgumentError

_SIMPLE: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    type(None): {"type": "null"},
    Any: {},
    object: {},
    dt.date: {"type": "string", "format": "date"},
    dt.datetime: {"type": "string", "format": "date-time"},
    dt.time: {"type": "string", "format": "time"},
}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def tool_of(function: Callable[..., Any]) -> Tool:
    """A function as a tool.

    The description and those of the parameters are read from a docstring in Google's, NumPy's or Sphinx's style. Types
    come from the annotations: str, int, float, bool, lists, dicts, Optional, unions, Literal, enumerations, data
    classes, TypedDict, dates, Annotated with a text as the description, or any class with `model_json_schema()`, such
    as pydantic's; a parameter without one has the docstring's type, its default's, or any. With a default a parameter
    is not required.

    Raises:
        ArgumentError: the function has no name, takes arguments that cannot be given by name, or a type is not known;
            the text names the tool and the parameter.
    """
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise ArgumentError(f"the tool {function!r} has no name; a tool is a function that was defined by `def`")
    try:
        signature = inspect.signature(function)
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # annotations may be code in quotes
        raise ArgumentError(f"the signature of tool {name!r} cannot be read: {error}") from error
    documented = docstring_parser.parse(inspect.getdoc(function) or "")
    texts = {parameter.arg_name: parameter for parameter in documented.params}
    properties: dict[str, Any] = {}
    for key, parameter in signature.parameters.items():
        where = f"the parameter {key!r} of tool {name!r}"
        if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
            raise ArgumentError(f"{where} cannot be given by name, as tool calls give their parameters")
        text = texts.get(key)
        schema = _schema(hints[key], where) if key in hints else _unannotated(parameter, text)
        if text is not None and text.description:
            schema = {**schema, "description": text.description}
        if parameter.default is not parameter.empty and _is_json(parameter.default):
            schema = {**schema, "default": parameter.default}
        properties[key] = schema
    required = [key for key, parameter in signature.parameters.items() if parameter.default is parameter.empty]
    definitions: dict[str, Any] = {}
    parameters = {"type": "object", "properties": _gather(properties, definitions), "required": required}
    if definitions:
        parameters["$defs"] = definitions
    return Tool(
        name=name,
        description=(documented.description or "").strip(),
        parameter_definitions=to_parameter_definitions(parameters),
        parameters=parameters,
    )


def _unannotated(parameter: inspect.Parameter, text: docstring_parser.DocstringParam | None) -> dict[str, Any]:
    if text is not None and text.type_name and (schema := schema_of_type(text.type_name)):
        return schema
    default = parameter.default
    return dict(_SIMPLE.get(type(default), {})) if default is not None else {}


def _schema(annotation: Any, where: str) -> dict[str, Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None and isinstance(annotation, Hashable) and annotation in _SIMPLE:
        return dict(_SIMPLE[annotation])
    if origin is typing.Annotated:
        schema = _schema(arguments[0], where)
        texts = [argument for argument in arguments[1:] if isinstance(argument, str)]
        return {**schema, "description": texts[0]} if texts else schema
    if origin in {Union, types.UnionType}:
        return {"anyOf": [_schema(argument, where) for argument in arguments]}
    if origin is Literal:
        return _enumeration(list(arguments), where)
    return _container(origin or annotation, arguments, where) or _class(annotation, where)


def _container(kind: Any, arguments: tuple[Any, ...], where: str) -> dict[str, Any] | None:
    if kind in _LISTS:
        return _list(kind, arguments, where)
    if kind in _MAPPINGS:
        values = {"additionalProperties": _schema(arguments[1], where)} if len(arguments) == 2 else {}
        return {"type": "object", **values}
    return None


def _list(kind: Any, arguments: tuple[Any, ...], where: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array"}
    items = [_schema(argument, where) for argument in arguments if argument is not ...]
    if kind is tuple and items and ... not in arguments:
        schema |= {"prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    elif items:
        schema["items"] = items[0]
    return schema  # without "uniqueItems" for a set: no grammar can hold a model to it


def _class(annotation: Any, where: str) -> dict[str, Any]:
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return _enumeration([member.value for member in annotation], where)
        if dataclasses.is_dataclass(annotation):
            fields = dataclasses.fields(annotation)
            missing = dataclasses.MISSING
            required = [f.name for f in fields if f.default is missing and f.default_factory is missing]
            return _object(annotation, [field.name for field in fields], required, where)
        if typing.is_typeddict(annotation):
            keys: frozenset[str] = vars(annotation)["__required_keys__"]
            names = list(annotation.__annotations__)
            return _object(annotation, names, [name for name in names if name in keys], where)
        if hasattr(annotation, "model_json_schema"):
            schema: dict[str, Any] = annotation.model_json_schema()
            return schema
    name = getattr(annotation, "__name__", None) or str(annotation)
    raise ArgumentError(f"{where} has the type {name}, which no JSON schema is known for")


def _object(annotation: Any, names: list[str], required: list[str], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(annotation, include_extras=True)
    properties = {name: _schema(_without_marks(hints[name]), where) for name in names}
    return {"type": "object", "properties": properties, "required": required}


def _without_marks(annotation: Any) -> Any:
    """A TypedDict's field without its Required or NotRequired around it."""
    marked = getattr(typing.get_origin(annotation), "_name", None) in {"Required", "NotRequired"}
    return typing.get_args(annotation)[0] if marked else annotation


def _gather(value: Any, definitions: dict[str, Any]) -> Any:
    """`value` with the definitions of its parts taken out: references count from the root of a schema."""
    if isinstance(value, dict):
        definitions.update(value.get("$defs", {}))
        return {key: _gather(item, definitions) for key, item in value.items() if key != "$defs"}
    return [_gather(item, definitions) for item in value] if isinstance(value, list) else value


def _enumeration(values: list[Any], where: str) -> dict[str, Any]:
    if not all(_is_json(value) for value in values):
        raise ArgumentError(f"{where} allows values that JSON does not have: {values!r}")
    kinds = {type(value) for value in values}
    return {**(_SIMPLE.get(kinds.pop(), {}) if len(kinds) == 1 else {}), "enum": values}


def _is_json(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
