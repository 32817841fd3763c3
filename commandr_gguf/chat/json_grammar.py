"""JSON schemas as parts of a grammar: checked, so that what cannot be enforced is refused by its name."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from commandr_gguf.errors import ArgumentError

SPACE_OR_INDENT = r" |\n {0,64}"
"""White space between the parts of a value, once in each place, as json.dumps writes it with and without an indent.
Without a limit a model may write white space for ever."""
_LARGEST = 10**15 - 1
"""Of integers without bounds: every reader of JSON keeps 15 digits."""
_JSON_ERROR = "failed to compile JSON schema: "
ANNOTATIONS = {
    *("$comment", "$id", "$schema", "title", "description", "default", "examples", "example", "deprecated"),
    *("readOnly", "writeOnly"),
}
"""Keywords that say nothing about which values are right."""
_MAPS = {"properties", "patternProperties", "$defs", "definitions"}
_LISTS = {"anyOf", "allOf", "oneOf", "prefixItems"}
_SCHEMAS = {"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"}
KEYWORDS = {
    *ANNOTATIONS,
    *_MAPS,
    *_LISTS,
    *_SCHEMAS,
    *("type", "enum", "const", "$ref", "required", "minItems", "maxItems", "uniqueItems", "minLength", "maxLength"),
    *("pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minProperties", "maxProperties", "dependencies", "dependentRequired", "dependentSchemas", "minContains"),
    *("maxContains", "unevaluatedItems", "unevaluatedProperties", "$anchor", "$dynamicRef", "$dynamicAnchor"),
}
"""All words of JSON schema. llguidance refuses those that it does not enforce, by their names, and ignores all else."""


def unknown_keywords(schema: Any) -> Iterator[str]:
    """Keys of a schema and its parts that are no words of JSON schema, such as misspelled ones."""
    if not isinstance(schema, Mapping):
        return
    for key, value in schema.items():
        if key not in KEYWORDS:
            yield key
        parts: Sequence[Any] = ()
        if key in _MAPS and isinstance(value, Mapping):
            parts = list(value.values())
        elif isinstance(value, list) and (key in _LISTS or key == "items"):
            parts = value
        elif key in _SCHEMAS:
            parts = [value]
        for part in parts:
            yield from unknown_keywords(part)


def checked_schema(schema: Mapping[str, Any] | bool, where: str, *, space: str = SPACE_OR_INDENT) -> str:
    """A schema as the right side of a grammar's rule.

    Args:
        schema: of the value.
        where: what an error's text begins with.
        space: a regular expression of what may stand, once, between the parts of the value, beside nothing.

    Raises:
        ArgumentError: it is not valid, or cannot be enforced.
    """
    options = {"x-guidance": {"whitespace_pattern": space, "json_allow_general_unicode_escapes": True}}
    try:
        whole = schema if schema is False else options if schema is True else {**_bounded(schema), **options}
        text = f"%json {json.dumps(whole)}"
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"{where} is no JSON schema: {error}") from error
    checked(f"start: {text}", where)
    return text


def _bounded(schema: Any) -> Any:
    """A schema whose integers have at most 15 digits: without an end of its own a model may write them for ever."""
    if isinstance(schema, list):
        return [_bounded(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    bounded = dict(schema)
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, Mapping):
            bounded[key] = {name: _bounded(part) for name, part in value.items()}
        elif key in _LISTS | _SCHEMAS:
            bounded[key] = _bounded(value)
    kind = schema.get("type")
    if kind == "integer" or (isinstance(kind, list) and "integer" in kind and "number" not in kind):
        if not schema.keys() & {"minimum", "exclusiveMinimum"}:
            bounded["minimum"] = -_LARGEST
        if not schema.keys() & {"maximum", "exclusiveMaximum"}:
            bounded["maximum"] = _LARGEST
    return bounded


def checked(grammar: str, where: str) -> str:
    """`grammar`, when llguidance takes it. Raises ArgumentError, whose text begins with `where`, when not."""
    error = _error_of(grammar)
    if error is not None:
        raise ArgumentError(f"{where} cannot constrain a text: {error}")
    return grammar


@functools.lru_cache(maxsize=256)  # the parameters of many tools have few schemas
def _error_of(grammar: str) -> str | None:
    wrong, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LLParserLimits(verbose_errors=False))
    if not wrong:
        return None
    sentence, *lines = messages[0].splitlines()
    for line in lines:  # a wrong regular expression is shown first and explained below
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return sentence.partition(_JSON_ERROR)[2] or sentence
