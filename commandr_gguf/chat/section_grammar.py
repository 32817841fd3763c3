"""Grammars of the replies of Command R7B ("cmd3") and Command A ("cmd4"), whose sections stand between control tokens.

    <|START_THINKING|>...<|END_THINKING|><|START_ACTION|>[
        {"tool_call_id": "0", "tool_name": "search", "parameters": {}}
    ]<|END_ACTION|>
    <|START_RESPONSE|>It opened in <co>1987</co: 0:[1,2],1:[0]>.<|END_RESPONSE|>

cmd4 has TEXT in the place of RESPONSE. The grammar is in llguidance's form of Lark, which names control tokens by their
text; see `grammars` for what others write into it.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from commandr_gguf.chat.grammars import (
    MAX_CALLS,
    NUMBER_RULES,
    checked_properties,
    cited_text,
    free_text,
    value_alternatives,
)
from commandr_gguf.chat.json_grammar import SPACE_OR_INDENT
from commandr_gguf.chat.json_schema import Tool, to_json_schema
from commandr_gguf.chat.tag_grammar import number_list
from commandr_gguf.errors import UnsupportedError, integer

logger = logging.getLogger("commandr_gguf.chat")

# What no text within a section may spell: parsers read the marks as text.
_MARKS = ("<|START_", "<|END_")
_BLANK = r"/[ \t\r\n]{1,8}/?"
_GAP = f"(?:{SPACE_OR_INDENT})?"
_PUNCTUATION = rf"""
LIST: /{_GAP}\[{_GAP}/
LIST_END: /{_GAP}\]{_GAP}/
OBJECT: /\{{{_GAP}/
OBJECT_END: /{_GAP}\}}/
COMMA: /,{_GAP}/
COLON: /: ?/
"""


def section_grammar(
    reply_format: Literal["cmd3", "cmd4"],
    tools: Iterable[Tool],
    n_results: Sequence[int],
    control_tokens: Collection[str],
    *,
    cite: bool = True,
    think: bool = True,
    must_call: bool = False,
    max_calls: int = MAX_CALLS,
    answer: str | None = None,
    opened: str = "",
) -> str | None:
    """A reply in sections: thoughts or none, then calls of the tools or an answer.

    A call has the names and parameters of an offered tool, see `grammars.tools_grammar`; a parameter may be null where
    its schema says so only, as the prompt shows it. `tool_call_id` may be left out; where it stands, it is the number
    by which citations will name the call: calls are counted on from those of the prompt. In thoughts and in the answer
    a citation names results that exist, tags close, and none holds another.

    Args:
        reply_format: cmd3 is Command R7B's, cmd4 Command A's.
        tools: as `normalize_tools` gives them; without any the reply is an answer.
        n_results: how many results each tool call in the prompt has, in its order; documents are the first call's.
            Without any result nothing can be cited.
        control_tokens: of the vocabulary, as text.
        cite: whether citations are allowed.
        think: whether thoughts are allowed.
        must_call: with tools, whether they must be called.
        max_calls: how many calls a reply may have, 1 or more.
        answer: a grammar that the answer keeps to, as `grammars.json_schema_grammar` gives it; it cites nothing then.
        opened: the mark with which the prompt has begun a section already, if it has.

    Returns:
        None where nothing is known to be forbidden: no tool was offered, there is no result and no grammar of the
        answer; or the vocabulary lacks a control token of the format, which the logger of this module says once.

    Raises:
        UnsupportedError: the vocabulary lacks a control token, and the answer has a grammar.
        ArgumentError: a schema has a keyword that cannot be enforced, or a tool more than 64 parameters; the text names
            the tool and the parameter.
    """
    tools, n_results = list(tools), [integer("n_results", n, 0) for n in n_results]
    if not tools and not any(n_results) and answer is None:
        return None
    name = "RESPONSE" if reply_format == "cmd3" else "TEXT"
    missing = [mark for part in ("THINKING", "ACTION", name) for mark in _marks(part) if mark not in control_tokens]
    if missing and answer is not None:
        raise UnsupportedError(f"the vocabulary has no control token {missing[0]}, so answers have no form to keep to")
    if missing:
        _say_missing(missing[0])
        return None
    content = "text" if answer is None else "content"
    sections = [_section("answer", name, content), *_text_rules(n_results if cite else [])]
    if answer is not None:
        sections.append(f"content: %lark {{\n{answer}\n}}")
    if tools:
        sections += [_section("actions", "ACTION", "LIST calls_0"), *_call_rules(tools, len(n_results), max_calls)]
    forms = ["actions"] * bool(tools) + ["answer"] * (not (tools and must_call))
    start = f"{f'(thinking {_BLANK})? ' if think else ''}({' | '.join(forms)})"
    if opened == _marks("THINKING")[0]:
        start = f"text {_marks('THINKING')[1]} {_BLANK} ({' | '.join(forms)})"
    elif opened == _marks(name)[0]:
        start = f"{content} {_marks(name)[1]}"
    rules = [
        f"start: {start}",
        *([_section("thinking", "THINKING", "text")] if think else []),
        *sections,
    ]
    return "\n".join(rules) + "\n"


@functools.cache
def _say_missing(mark: str) -> None:
    logger.warning("the vocabulary has no control token %s, so replies with sections are not constrained", mark)


def _marks(name: str) -> tuple[str, str]:
    return f"<|START_{name}|>", f"<|END_{name}|>"


def _section(rule: str, name: str, content: str) -> str:
    start, end = _marks(name)
    return f"{rule}: {start} {content} {end}"


# ---- text


def _text_rules(n_results: Sequence[int]) -> list[str]:
    calls: dict[int, list[str]] = {}
    for call, n in enumerate(n_results):
        if n:
            calls.setdefault(n, []).append(str(call))
    if not calls:
        return ["text: TEXT?", f"TEXT: /{free_text(*_MARKS, '<co:', opening='<co>')}/"]
    source = "|".join(rf"(?:{'|'.join(numbers)}):\[{number_list(n)}\]" for n, numbers in calls.items())
    return [
        "text: (OPENING CLOSING SOURCES)* TEXT?",
        f"TEXT: /{free_text(*_MARKS, '<co:', opening='<co>')}/",
        f"OPENING: /{free_text(*_MARKS, '<co:', opening='<co>')}<co>/",
        f"CLOSING: /{cited_text(*_MARKS)}/",
        f"SOURCES: /(?:{source})(?:, ?(?:{source}))*>/",
    ]


# ---- calls


def _call_rules(tools: Sequence[Tool], first: int, max_calls: int) -> list[str]:
    """`calls_2` is a list from its third call on; the number of a call is `first` more than its place."""
    rules = []
    for i in range(max_calls):
        number = f'"\\"tool_call_id\\"" COLON {_quoted(json.dumps(str(first + i)))} COMMA'
        more = f"(COMMA calls_{i + 1} | LIST_END)" if i + 1 < max_calls else "LIST_END"
        rules.append(f"calls_{i}: OBJECT ({number})? call OBJECT_END {more}")
    rules.append(f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}")
    for i, tool in enumerate(tools):
        rules += _tool_rules(i, tool["name"], to_json_schema(tool))
    return [*rules, _PUNCTUATION, NUMBER_RULES]


def _tool_rules(tool: int, name: str, schema: Mapping[str, Any]) -> list[str]:
    """The rules of one tool: `call_3` is its call, `left_3` one parameter and those behind it."""
    properties = checked_properties(name, schema)
    required = [i for i, key in enumerate(properties) if key in schema.get("required", ())]
    n = len(properties)
    forms = ([] if required else ["OBJECT_END"]) + ([f"left_{tool}::0"] if n else [])
    its_name = f'"\\"tool_name\\"" COLON {_quoted(_json(name))}'
    rules = [
        f"call_{tool}: {its_name} COMMA parameters_{tool} | parameters_{tool} COMMA {its_name}",
        f'parameters_{tool}: "\\"parameters\\"" COLON OBJECT ({" | ".join(forms)})',
    ]
    if not n:
        return rules
    parameters = []
    for i, (key, value) in enumerate(properties.items()):
        values = value_alternatives(value, schema, f"the parameter {key!r} of tool {name!r}")
        rules.append(f"value_{tool}_{i}: {' | '.join(values)}")
        key_text = _quoted(_json(key))
        parameters.append(f"{key_text} COLON value_{tool}_{i} more_{tool}::set_bit({i}) %if bit_clear({i})")
    complete = "true"
    for i in required:
        complete = f"and(bit_set({i}), {complete})"
    return [
        *rules,
        f"left_{tool}::_: {' | '.join(parameters)}",
        f"more_{tool}::_: COMMA left_{tool}::_ %if bit_count_lt([0:{n}], {n})",
        f"    | OBJECT_END %if {complete}",
    ]


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _quoted(text: str) -> str:
    """A literal of Lark."""
    return json.dumps(text)
