"""Grammars of replies, in llguidance's form of Lark: what a model is trained to write, and nothing else.

Names of tools and parameters and the schemas of values are text of others: they come into a grammar as quoted literals
and as JSON only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from llguidance import regex_to_lark

from commandr_gguf.chat.actions import NO_TOOL
from commandr_gguf.chat.json_grammar import ANNOTATIONS, KEYWORDS, checked, checked_schema, unknown_keywords
from commandr_gguf.chat.json_schema import Tool, to_json_schema
from commandr_gguf.chat.tag_grammar import number_list, tag_rules
from commandr_gguf.errors import ArgumentError, integer

MAX_CALLS = 32
"""How many tools one reply may call."""
MAX_PARAMETERS = 64
"""Of one tool: a rule of llguidance remembers 64 bits, one for each that was written."""

RELEVANT_MARK = "Relevant Documents:"
"""With which a grounded reply begins."""
_ACTION = "Action:"
_CITED, _ANSWER, _GROUNDED = "Cited Documents:", "Answer:", "Grounded answer:"
# How the names of markup begin that do not begin with "co", as those of tags do.
_WORD = "(?:[A-Zabd-z]|c[A-Za-np-z])"
_NEW_LINE, _BLANK = "\n", " \t\r\n"
_CALL_HEAD, _CALL_END, _PARAMETERS_END = map(json.dumps, ('    {\n        "tool_name": ', "\n    }", "\n        }"))
# Of the schema of all parameters of a tool. Others than its properties are never allowed.
_OBJECT_KEYWORDS = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
# Numbers that a parser of JSON reads: a float has no infinity to write, and Python refuses integers of many digits.
NUMBER_RULES = r"""
INTEGER: /-?(?:0|[1-9][0-9]{0,30})/
NUMBER: /-?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?/
"""


def tools_grammar(tools: Iterable[Tool], *, allow_direct_answer: bool = True, max_calls: int = MAX_CALLS) -> str:
    """A list of calls, as the tool_use template asks for it: `Action:` and JSON in a code fence, indented by four.

    Names are those of the tools, parameters those of the tool with values after its schema, in any order, each once,
    and those that are required are there. A parameter that is not required may be null, since prompts show it as
    `Optional[str] = None`.

    Args:
        tools: as `normalize_tools` gives them.
        allow_direct_answer: whether the model may choose `directly-answer` or `directly_answer`, which stand for "no
            tool", though they are not among the tools.
        max_calls: how many calls the list may have, 1 or more.

    Raises:
        ArgumentError: a schema has a keyword that cannot be enforced, or a tool more than 64 parameters; the text names
            the tool and the parameter.
    """
    return _lines(f'start: "{_ACTION}" actions', *_action_rules(tools, allow_direct_answer, max_calls))


def grounded_grammar(n_documents: int, citation_mode: Literal["accurate", "fast"] = "accurate") -> str:
    """A grounded reply, as the rag template asks for it: numbers of documents, and an answer with closed citations.

    In the accurate mode the plain answer ends at the first line that begins with `Grounded answer:`. A citation names
    documents that exist, the closing tag the same ones, and citations do not hold others; behind `Cited Documents:
    None` there are none. Between citations any text may stand, words such as `<code>` too, where `</` needs one of them
    before it; within a citation `<` is the beginning of the closing tag or no markup, as in `a < b`: see `cited_text`.
    """
    n_documents = integer("n_documents", n_documents, 0)
    answer = "ANSWER" if citation_mode == "accurate" else f'"{_GROUNDED}"'
    return _lines(f'start: "{RELEVANT_MARK}" grounded', *_grounded_rules(n_documents, answer))


def multi_step_grammar(tools: Iterable[Tool], n_documents: int, *, max_calls: int = MAX_CALLS) -> str:
    """A reply of multi-step tool use: a plan or a reflection or none, then calls of tools or a grounded answer.

    The plain answer before the grounded one may be left out, and a new line may stand first, as it does before the
    turns with actions in the prompt. See `tools_grammar` and `grounded_grammar`.
    """
    n_documents = integer("n_documents", n_documents, 0)
    thought = f"(?:Plan|Reflection):{_text_without(_NEW_LINE + _ACTION, _NEW_LINE + RELEVANT_MARK)}"
    return _lines(
        f'start: "\\n"? (("{_ACTION}" | THOUGHT_ACTION) actions | ("{RELEVANT_MARK}" | THOUGHT_GROUNDED) grounded)',
        rf"THOUGHT_ACTION: /{thought}\n{_ACTION}/",
        rf"THOUGHT_GROUNDED: /{thought}\n{RELEVANT_MARK}/",
        *_action_rules(tools, True, max_calls),
        *_grounded_rules(n_documents, f'(ANSWER | "{_GROUNDED}")'),
    )


def json_schema_grammar(schema: Mapping[str, Any] | str | bool) -> str:
    """A JSON value that keeps to a JSON schema, of draft 2020-12: a mapping, its JSON text, or True for any value.

    Properties are written in the schema's order; between parts of the value one space may stand, and no line break: a
    model that likes white space would fill its reply with it.

    Raises:
        ArgumentError: the schema is not valid, nothing satisfies it, or it has a keyword that cannot be enforced.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"the schema is not valid JSON: {error}") from error
    if not isinstance(schema, (Mapping, bool)):
        raise ArgumentError(f"the schema must be a mapping or True, not {schema!r}")
    unknown = next(unknown_keywords(schema), None)
    if unknown is not None:
        raise ArgumentError(f"the schema has the keyword {unknown!r}, which is not known")
    return _lines(f"start: {checked_schema(schema, 'the schema', space=' ')}")


def regex_grammar(pattern: str) -> str:
    """A text that a regular expression matches from its beginning to its end, in the syntax of Rust's crate regex.

    Raises:
        ArgumentError: the pattern is not valid; look-around and references back are not.
    """
    if not isinstance(pattern, str):
        raise ArgumentError(f"the pattern must be a string, not {pattern!r}")
    return checked(f"start: /{regex_to_lark(pattern, use_ascii='')}/", f"the pattern {pattern!r}")


def lark_grammar(text: str) -> str:
    """A grammar in llguidance's form of Lark, checked.

    Raises:
        ArgumentError: the grammar is not valid.
    """
    if not isinstance(text, str):
        raise ArgumentError(f"the grammar must be a string, not {text!r}")
    return checked(text, "the grammar")


# ---- tools


def _action_rules(tools: Iterable[Tool], allow_direct_answer: bool, max_calls: int) -> list[str]:
    schemas = {tool["name"]: to_json_schema(tool) for tool in tools}
    if allow_direct_answer:
        schemas |= {name: {} for name in sorted(NO_TOOL) if name not in schemas}
    rules = []
    for i, (name, schema) in enumerate(schemas.items()):
        rules += _tool_rules(i, name, schema)
    more = rf' (",\n" call){{0,{max_calls - 1}}}' if max_calls > 1 else ""
    return [
        rf"actions: / ?```json\n\[\n/ call{more} /\n\]\n?```/",
        f"call: {_CALL_HEAD} ({_either(f'tool_{i}' for i in range(len(schemas)))}) {_CALL_END}",
        *rules,
        NUMBER_RULES,
    ]


def _tool_rules(tool: int, name: str, schema: Mapping[str, Any]) -> list[str]:
    """The rules of one tool: `tool_3` is its call from its name on, `left_3` one parameter and those behind it."""
    properties = checked_properties(name, schema)
    required = [i for i, key in enumerate(properties) if key in schema.get("required", ())]
    n = len(properties)
    head = _quoted(f'{_json(name)},\n        "parameters": ')
    forms = ([] if required else ['"{}"']) + ([f'"{{\\n" left_{tool}::0'] if n else [])
    rules = [f"tool_{tool}: {head} ({_either(forms)})"]
    if not n:
        return rules
    parameters = []
    for i, (key, value) in enumerate(properties.items()):
        where = f"the parameter {key!r} of tool {name!r}"
        values = value_alternatives(value, schema, where) + ([] if i in required else ['"null"'])
        rules.append(f"value_{tool}_{i}: {_either(values)}")
        key_text = _quoted(f"            {_json(key)}: ")
        parameters.append(f"{key_text} value_{tool}_{i} more_{tool}::set_bit({i}) %if bit_clear({i})")
    complete = "true"
    for i in required:
        complete = f"and(bit_set({i}), {complete})"
    return [
        *rules,
        f"left_{tool}::_: {_either(parameters)}",
        f'more_{tool}::_: ",\\n" left_{tool}::_ %if bit_count_lt([0:{n}], {n})',
        f"    | {_PARAMETERS_END} %if {complete}",
    ]


def checked_properties(name: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a tool. Raises ArgumentError where there are too many, or a keyword that cannot be enforced."""
    for key in schema:
        if key in KEYWORDS - ANNOTATIONS - _OBJECT_KEYWORDS:
            raise ArgumentError(f"the parameters of tool {name!r} have the keyword {key!r}, which cannot be enforced")
    properties: Mapping[str, Any] = schema.get("properties", {})
    n = len(properties)
    if n > MAX_PARAMETERS:
        raise ArgumentError(f"tool {name!r} has {n} parameters; calls can be constrained to at most {MAX_PARAMETERS}")
    return properties


def value_alternatives(schema: Any, root: Mapping[str, Any], where: str) -> list[str]:
    """The alternatives of a parameter's value, with the rules NUMBER_RULES."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    names = {"integer": "INTEGER", "number": "NUMBER"}
    if isinstance(kind, str) and kind in names and not set(schema) - ANNOTATIONS - {"type"}:
        return [names[kind]]
    definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
    return [checked_schema({**definitions, **schema} if isinstance(schema, Mapping) else schema, where)]


# ---- grounded replies


def _grounded_rules(n_documents: int, answer: str) -> list[str]:
    forms = [f'"None\\n" {answer} WITHOUT_TAGS']
    rules = ['numbers: "None"']
    if n_documents:
        forms.append(f'NUMBERS "\\n" {answer} (WITHOUT_TAGS | (OPENING opened_0_0::0)+ REST?)')
        rules = [
            'numbers: "None" | NUMBERS',
            f"NUMBERS: /{number_list(n_documents)}/",
            f"OPENING: /{free_text()}<co: /",
            f"CLOSING: /{cited_text()}/",
            f"REST: /{free_text()}/",
            *tag_rules(n_documents),
        ]
    return [
        f'grounded: " " numbers "\\n{_CITED} " ({_either(forms)})',
        rf"ANSWER: /{_ANSWER}{free_text(_NEW_LINE + _GROUNDED)}\n{_GROUNDED}/",
        rf"WITHOUT_TAGS: /[ \t\r\n]*{free_text(not_first=_BLANK)}/",
        *rules,
    ]


def free_text(*words: str, opening: str = "<co:", not_first: str = "") -> str:
    """A regular expression of texts without these words and without tags, of which one opens as `opening` does."""
    until = _text_without("<co", "</", *words, not_first=not_first)
    markup = f"<(?:{_WORD}|co[A-Za-z]){_text_without(opening, '</co:', '</co>', *words)}"
    return f"(?:{until}(?:{markup})?{f'|{markup}' if not_first else ''})"


def cited_text(*words: str) -> str:
    """A regular expression of texts without tags and these words, and the beginning of a closing tag.

    Words begin with `<`, and what follows that in one of them follows it nowhere. Neither does a letter, a slash or a
    colon: where a tag may not open, a model that begins one is to be led into closing the citation, not into a word.
    Comparisons and the like remain, and text with other markup can stand outside of citations.
    """
    return rf"(?:[^<]|<+[^<A-Za-z:{_in_class('/', *dict.fromkeys(word[1] for word in words))}])*<\/co: "


def _text_without(*words: str, not_first: str = "") -> str:
    """A regular expression of texts in which none of the words occurs.

    The first characters of the words must occur in no other place of theirs. Where `not_first` is given, the text has a
    first character, which is none of these. No beginning of a tag longer than `<` stands at its end: parsers would take
    it for a tag that was cut. The expression is written out, without complements, so that its automaton is small and
    llguidance finds out quickly what text without these first characters cannot do to it.
    """
    starts = "".join(dict.fromkeys(word[0] for word in words))
    free = f"[^{_in_class(starts)}]*"

    def rest(beginning: str) -> str:
        following = sorted({word[len(beginning)] for word in words if word.startswith(beginning)})
        ways = [f"[^{_in_class(starts, *following)}]{free}"]
        ways += [_in_class(c) + rest(beginning + c) for c in following if beginning + c not in words]
        return f"(?:{'|'.join(ways)}){'' if beginning[0] == '<' and len(beginning) > 1 else '?'}"

    tails = "|".join(_in_class(start) + rest(start) for start in starts)
    first = f"(?:[^{_in_class(starts, not_first)}]{free}|{tails})" if not_first else free
    return f"{first}(?:{tails})*"


def _in_class(*characters: str) -> str:
    """Characters within a regular expression's brackets, or one alone, between Lark's slashes."""
    special = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "/": r"\/", "|": r"\|"}
    return "".join(special.get(c, c) for c in "".join(characters))


# ---- Lark


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """A literal of Lark."""
    return json.dumps(text)


def _either(alternatives: Iterable[str]) -> str:
    return " | ".join(alternatives)


def _lines(*rules: str) -> str:
    return "\n".join(rules) + "\n"
