"""What grammars of replies let a model write: every right reply, token by token, and no broken one."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

import constraints
from commandr_gguf.chat.actions import NO_TOOL, parse_actions, parse_calls
from commandr_gguf.chat.citations import parse_grounded_answer
from commandr_gguf.chat.grammars import grounded_grammar, json_schema_grammar, multi_step_grammar, tools_grammar
from commandr_gguf.chat.tools import normalize_tools, to_json_schema
from commandr_gguf.demo.data.example import Example, Task
from commandr_gguf.demo.data.source import Source
from commandr_gguf.errors import FormatError

TASKS: tuple[Task, ...] = ("tools", "accurate", "fast")
COUNTS = {"demo": 200, "real": 60}
N_DOCUMENTS = 12
TOOLS = normalize_tools(
    [
        {
            "name": "search_flights",
            "parameter_definitions": {
                "city": {"type": "str", "required": True},
                "people": {"type": "int"},
                "price": {"type": "float", "required": True},
                "direct": {"type": "bool"},
                "stops": {"type": "List[str]"},
            },
        },
        {
            "name": "search",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "maxLength": 12},
                    "order": {"enum": ["date", 'the "best"']},
                    "range": {
                        "type": "object",
                        "properties": {"low": {"type": "integer", "minimum": 3}, "high": {"type": "integer"}},
                        "required": ["high"],
                        "additionalProperties": False,
                    },
                },
                "required": ["order", "range"],
            },
        },
        {"name": "now"},
    ]
)
TOOL_PHRASES = ('",\n', '"', "{}", "}", "]", "1", '"search_flights"', '"search"', '"city": "', '"stops": [', '"direct"')
GROUNDED_PHRASES = ("<co: ", "</co: ", "</co", "0", "1", "11", "12", ">", ",", "\nGrounded answer:", " <", "\n", "None")


def grammar_of(example: Example) -> str:
    """The grammar for the right reply of an example."""
    if example.task == "tools":
        return tools_grammar(normalize_tools(example.tools))
    return grounded_grammar(len(example.documents), example.citation_mode)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("vocabulary", ["demo", pytest.param("real", marks=pytest.mark.data)])
def test_every_right_reply_is_allowed_token_by_token(vocabulary: str, task: Task) -> None:
    for example in Source("test", 3).examples(task, COUNTS[vocabulary]):
        assert constraints.why_refused(vocabulary, grammar_of(example), example.reply) is None


@pytest.mark.parametrize("task", TASKS)
def test_a_right_reply_of_another_request_is_not_allowed(task: Task) -> None:
    examples = list(Source("test", 4).examples(task, 40))
    refusals = [
        constraints.why_refused("demo", grammar_of(example), other.reply)
        for example, other in itertools.pairwise(examples)
        if max(other.cited, default=-1) >= len(example.documents)
        or (other.call is not None and other.call["tool_name"] not in NO_TOOL)
    ]
    assert len(refusals) >= 5
    assert None not in refusals


@functools.cache
def replies(grammar: str | None, phrases: tuple[str, ...], count: int = 20) -> list[str]:
    """What a random writer ends by itself, with a grammar or without."""
    found = []
    for seed in range(3 * count):
        constraint = None if grammar is None else constraints.engine("demo").constraint(grammar)
        reply = constraints.RandomWriter("demo", seed, phrases).write(constraint, 700)
        found += [] if reply is None else [reply]
        if len(found) == count:
            return found
    raise AssertionError(f"only {len(found)} replies came to an end")


def check_actions(reply: str) -> None:
    """Raises when the calls of a reply are not of TOOLS."""
    schemas = {tool["name"]: dict(to_json_schema(tool), additionalProperties=False) for tool in TOOLS}
    calls = parse_calls(reply)
    assert calls
    assert reply.startswith("Action:")
    assert [call for call in calls if call.name not in NO_TOOL] == parse_actions(reply)
    for call in calls:
        schema: dict[str, Any] = schemas.get(call.name, {"maxProperties": 0})
        assert call.name in {*schemas, *NO_TOOL}
        required = schema.get("required", [])
        given = {key: value for key, value in call.parameters.items() if value is not None or key in required}
        jsonschema.validate(given, schema)


def check_grounded(reply: str) -> None:
    """Raises when a reply names a document that does not exist, or its tags do not pair."""
    parsed = parse_grounded_answer(reply)
    head = re.match(r"Relevant Documents: (None|[\d, ]+)\nCited Documents: (None|[\d, ]+)\n", reply)
    assert head
    assert parsed.text
    numbers = {*parsed.relevant, *parsed.cited, *(number for c in parsed.citations for number in c.documents)}
    assert numbers <= set(range(N_DOCUMENTS))
    grounded = reply.partition("Grounded answer:")[2]
    tags = re.findall(r"<(/?)co: ([\d, ]+)>", grounded)
    assert [slash for slash, _ in tags] == ["", "/"] * (len(tags) // 2)
    assert all(documents(a) == documents(b) for (_, a), (_, b) in zip(tags[::2], tags[1::2], strict=True))
    outside = re.sub(r"</?co: [\d, ]+>", "", reply)
    assert not re.search(r"</?co:|</co>", outside)


def documents(text: str) -> list[int]:
    """As many documents as a closing tag must repeat when there are at most 100."""
    return [int(number) for number in text.split(",")][:5]


def check_multi_step(reply: str) -> None:
    """Raises when a reply is neither right calls nor a right grounded answer, behind a plan or a reflection or not."""
    reply = reply.removeprefix("\n")
    start = re.search(r"^(Action:|Relevant Documents:)", reply, re.MULTILINE)
    assert start
    assert not start.start() or reply.startswith(("Plan:", "Reflection:"))
    (check_actions if start[0] == "Action:" else check_grounded)(reply[start.start() :])


FORMATS: dict[str, tuple[str, tuple[str, ...], Callable[[str], None]]] = {
    "tools": (tools_grammar(TOOLS), TOOL_PHRASES, check_actions),
    "accurate": (grounded_grammar(N_DOCUMENTS), GROUNDED_PHRASES, check_grounded),
    "fast": (grounded_grammar(N_DOCUMENTS, "fast"), GROUNDED_PHRASES, check_grounded),
    "multi-step": (
        multi_step_grammar(TOOLS, N_DOCUMENTS),
        (*TOOL_PHRASES, *GROUNDED_PHRASES, "\nAction:", "\nRelevant Documents:"),
        check_multi_step,
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_random_writer_cannot_break_the_format(name: str) -> None:
    grammar, phrases, check = FORMATS[name]
    for reply in replies(grammar, phrases):
        check(reply)


@pytest.mark.parametrize("name", FORMATS)
def test_without_the_grammar_the_same_writer_breaks_it(name: str) -> None:
    _, phrases, check = FORMATS[name]
    for reply in replies(None, phrases):
        with pytest.raises((AssertionError, FormatError, jsonschema.ValidationError)):
            check(reply)


def test_random_replies_use_what_the_format_has() -> None:
    """The tests above would pass with grammars that allow too little."""
    calls = [call for reply in replies(*FORMATS["tools"][:2]) for call in parse_calls(reply)]
    assert {call.name for call in calls} >= {"search_flights", "search", "now"}
    assert {key for call in calls for key in call.parameters} >= {"city", "people", "stops", "order", "range"}
    assert max(len(call.parameters) for call in calls) >= 3
    answers = [parse_grounded_answer(reply) for reply in replies(*FORMATS["fast"][:2])]
    cited = [citation for answer in answers for citation in answer.citations]
    assert {len(citation.documents) for citation in cited} >= {1, 2}
    assert any(not answer.citations for answer in answers)
    assert any(not character.isascii() for answer in answers for character in answer.text)


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "array", "items": {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^x+$"}]}, "minItems": 2},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_random_json_keeps_to_its_schema(schema: dict[str, Any]) -> None:
    for reply in replies(json_schema_grammar(schema), ('"', "]", "}", "true", ",", '"a"', ":")):
        jsonschema.validate(json.loads(reply), schema)


def forced_count(grammar: str, reply: str) -> tuple[int, int]:
    """How many tokens of a reply are forced, and how many there are."""
    constraint = constraints.engine("demo").constraint(grammar)
    tokens = constraints.tokenizer("demo").encode(reply)
    n_forced = i = 0
    while i < len(tokens):
        forced = constraint.forced()
        assert forced == tokens[i : i + len(forced)]
        n_forced += len(forced)
        for token in forced or tokens[i : i + 1]:
            constraint.accept(token)
            i += 1
    return n_forced, len(tokens)


def test_a_name_without_another_choice_and_the_punctuation_of_json_are_forced() -> None:
    call = {"tool_name": "search_flights", "parameters": {"city": "Oslo", "date": "1 May"}}
    reply = f"Action: ```json\n{json.dumps([call], indent=4)}\n```"
    parameters = {name: {"type": "str", "required": True} for name in call["parameters"]}
    tools = normalize_tools([{"name": "search_flights", "parameter_definitions": parameters}])
    grammar = tools_grammar(tools, allow_direct_answer=False)
    constraint = constraints.engine("demo").constraint(grammar)
    tokenizer = constraints.tokenizer("demo")
    for token in tokenizer.encode("Action: ```json\n"):
        constraint.accept(token)
    beginning = reply.partition("```json\n")[2].partition('"city"')[0].rstrip(" ")
    assert tokenizer.decode(constraint.forced()).startswith(beginning.rstrip("\n"))
    n_forced, n_all = forced_count(grammar, reply)
    assert n_forced > 0.6 * n_all, (n_forced, n_all)
    # With a choice of tools, what follows the choice is still forced.
    n_forced, n_all = forced_count(tools_grammar(tools), reply)
    assert n_forced > 0.5 * n_all, (n_forced, n_all)
