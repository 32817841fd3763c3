"""Grammars of replies: the forms they take, the texts of others they hold, and what they refuse to be made of."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

import constraints
from commandr_gguf import ArgumentError, parse_actions
from commandr_gguf.chat.grammars import (
    MAX_CALLS,
    MAX_PARAMETERS,
    grounded_grammar,
    json_schema_grammar,
    lark_grammar,
    multi_step_grammar,
    regex_grammar,
    tools_grammar,
)
from commandr_gguf.chat.json_schema import Tool
from commandr_gguf.chat.tools import normalize_tools

HEAD = "Relevant Documents: 0\nCited Documents: 0\nGrounded answer:"


def tools(**parameters: Any) -> list[Tool]:
    """One tool, `search`, with parameters given by their JSON schemas or Python types; those with "!" are required."""
    definitions: dict[str, Any] = {}
    for name, schema in parameters.items():
        definitions[name] = {"type": schema.rstrip("!"), "required": schema.endswith("!")}
    return normalize_tools([{"name": "search", "parameter_definitions": definitions}])


def with_schema(schema: Any, **rest: Any) -> list[Tool]:
    """One tool, `search`, with the parameter `value`."""
    return normalize_tools(
        [{"name": "search", "parameters": {"type": "object", "properties": {"value": schema}, **rest}}]
    )


def actions(*calls: Any, indent: int | None = 4) -> str:
    """The reply with these calls, each (name, parameters)."""
    values = [{"tool_name": name, "parameters": parameters} for name, parameters in calls]
    return f"Action: ```json\n{json.dumps(values, indent=indent, ensure_ascii=False)}\n```"


def allows(grammar: str, reply: str) -> bool:
    """Whether the whole reply may be written and may end there."""
    return constraints.why_refused("demo", grammar, reply) is None


class TestTools:
    def test_the_published_forms_of_the_fence_are_allowed(self) -> None:
        grammar = tools_grammar(tools(query="str!"))
        reply = actions(("search", {"query": "a"}))
        for form in (reply, reply.replace("Action: ", "Action:"), reply.replace("]\n```", "]```")):
            assert allows(grammar, form)
        assert not allows(grammar, actions(("search", {"query": "a"}), indent=None))
        assert not allows(grammar, reply + "\nMore.")

    def test_parameters_stand_in_any_order_and_once(self) -> None:
        grammar = tools_grammar(tools(a="str!", b="int", c="bool!"))
        assert allows(grammar, actions(("search", {"a": "x", "b": 1, "c": True})))
        assert allows(grammar, actions(("search", {"c": True, "b": 1, "a": "x"})))
        assert allows(grammar, actions(("search", {"c": True, "a": "x"})))
        assert not allows(grammar, actions(("search", {"a": "x", "b": 1})))
        assert not allows(grammar, actions(("search", {"a": "x", "c": True, "d": 1})))
        twice = actions(("search", {"a": "x", "c": True, "b": 1})).replace('"b": 1', '"a": "y"')
        assert not allows(grammar, twice)

    def test_values_are_of_their_type(self) -> None:
        grammar = tools_grammar(tools(s="str", i="int", f="float", b="bool", l="List[int]", d="Dict[str, float]"))
        right = {"s": 'a "b"\\\n\u4eca', "i": -12, "f": 1.5e-7, "b": False, "l": [1, 2], "d": {"x": 0.5, "y": 2}}
        assert allows(grammar, actions(("search", right)))
        assert allows(grammar, actions(("search", {"l": [], "d": {}})))
        assert allows(grammar, actions(("search", dict.fromkeys(right))))
        for key, value in (("s", 1), ("i", 1.5), ("i", "1"), ("f", "x"), ("b", 0), ("l", ["a"]), ("d", {"x": "y"})):
            assert not allows(grammar, actions(("search", {key: value}))), (key, value)

    def test_required_values_are_not_null(self) -> None:
        assert not allows(tools_grammar(tools(a="str!")), actions(("search", {"a": None})))
        assert allows(tools_grammar(tools(a="Optional[str]!")), actions(("search", {"a": None})))

    def test_escaped_characters_are_allowed_and_halves_of_them_are_not(self) -> None:
        grammar = tools_grammar(tools(a="str!"))
        reply = actions(("search", {"a": "X"}))
        assert allows(grammar, reply.replace("X", "\\u00e9 \\ud83d\\ude00"))
        assert not allows(grammar, reply.replace("X", "\\ud83d"))

    @pytest.mark.parametrize("number", ["1e999", "1" * 5000, "NaN", "01", "+1"])
    def test_numbers_that_do_not_parse_are_not_allowed(self, number: str) -> None:
        grammar = tools_grammar(tools(i="int", f="float"))
        for key in "if":
            assert not allows(grammar, actions(("search", {key: "X"})).replace('"X"', number))

    def test_values_keep_to_their_json_schema(self) -> None:
        point = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
        grammar = tools_grammar(
            with_schema({"type": "array", "items": {"$ref": "#/$defs/p"}}, **{"$defs": {"p": point}})
        )
        assert allows(grammar, actions(("search", {"value": [{"x": 1}, {"x": 2}]})))
        assert not allows(grammar, actions(("search", {"value": [{"y": 1}]})))

    def test_no_parameters_and_no_tool(self) -> None:
        none = normalize_tools([{"name": "now"}])
        assert allows(tools_grammar(none), actions(("now", {})))
        for name in ("directly_answer", "directly-answer"):
            assert allows(tools_grammar(none), actions((name, {})))
            assert not allows(tools_grammar(none, allow_direct_answer=False), actions((name, {})))
        assert not allows(tools_grammar(none), actions(("later", {})))

    def test_the_number_of_calls_has_a_limit(self) -> None:
        grammar = tools_grammar(normalize_tools([{"name": "now"}]))
        assert allows(grammar, actions(*[("now", {})] * MAX_CALLS))
        assert not allows(grammar, actions(*[("now", {})] * (MAX_CALLS + 1)))
        one, two = actions(("now", {})), actions(*[("now", {})] * 2)
        none = normalize_tools([{"name": "now"}])
        for single in (tools_grammar(none, max_calls=1), multi_step_grammar(none, 0, max_calls=1)):
            assert allows(single, one)
            assert not allows(single, two)
        assert not allows(grammar, actions())

    @hypothesis.given(
        st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"), min_size=1)
    )
    @hypothesis.example('a"b\\', "/\n\x00")
    @hypothesis.example('"\nstart: /.*/\n', "%json {}")
    @hypothesis.example("e\u0301", "\u212b\U0001f600<|END_OF_TURN_TOKEN|>")
    @hypothesis.settings(max_examples=40)
    def test_any_name_is_text_and_nothing_else(self, name: str, parameter: str) -> None:
        definitions = {parameter: {"type": "int", "required": True}}
        offered = normalize_tools([{"name": name, "parameter_definitions": definitions}])
        constraint = constraints.engine("demo").constraint(tools_grammar(offered, allow_direct_answer=False))
        written = b""
        tokenizer = constraints.tokenizer("demo")
        while not constraint.done:
            tokens = constraint.forced() or tokenizer.encode(
                " " if written.endswith(b"Action:") else "7" if written.endswith(b": ") else "\n"
            )
            for token in tokens:
                constraint.accept(token)
            written += b"".join(map(tokenizer.token_bytes, tokens))
        (call,) = parse_actions(written.decode())
        assert (call.name, call.parameters) == (name, {parameter: 7})

    @pytest.mark.parametrize(
        ("offered", "sentence"),
        [
            (with_schema({"type": "array", "uniqueItems": True}), "'value' of tool 'search' .*uniqueItems"),
            (with_schema({"not": {"type": "string"}}), "'value' of tool 'search' .*not"),
            (with_schema({"type": "string", "pattern": "(?=a)"}), "'value' of tool 'search' .*look-around"),
            (with_schema({"$ref": "#/$defs/none"}), "'value' of tool 'search' .*none"),
            (with_schema({}, minProperties=1), "tool 'search' have the keyword 'minProperties'"),
            (tools(**{f"p{i}": "str" for i in range(MAX_PARAMETERS + 1)}), "tool 'search' has 65 parameters"),
        ],
    )
    def test_what_cannot_be_enforced_is_refused_by_name(self, offered: list[Tool], sentence: str) -> None:
        with pytest.raises(ArgumentError, match=sentence):
            tools_grammar(offered)


class TestGrounded:
    @pytest.mark.parametrize("n", [1, 2, 9, 10, 11, 37, 100, 101, 1000])
    def test_numbers_are_those_of_the_documents(self, n: int) -> None:
        grammar = grounded_grammar(n, "fast")
        for number in {0, 1, 9, 10, 11, n // 2, n - 1, n, n + 1, 10 * n, 9 * n + 9}:
            reply = f"Relevant Documents: {number}\nCited Documents: None\nGrounded answer: a"
            assert allows(grammar, reply) == (number < n), number
            reply = f"Relevant Documents: None\nCited Documents: 0,{number}\nGrounded answer: a"
            assert allows(grammar, reply) == (number < n), number
            assert allows(grammar, f"{HEAD} <co: {number}>a</co: {number}>") == (number < n), number
        assert not allows(grammar, HEAD.replace("0", "00") + " a")

    @pytest.mark.parametrize(
        "answer",
        [
            " plain",
            "\n- one\n- two",
            " <co: 0>a</co: 0>",
            " <co: 0,1>a</co: 0,1> and <co: 2>b</co: 2>, c.",
            " <co: 0, 2>a</co: 0,2>",
            " <co: 1>two\n\nparagraphs</co: 1>\n",
            " Use <code>x</code>, a < b, <col>, </c>, </ x>, <, <c and </code>.",
            "<code>x</code>",
            " <co: 0>a</co: 0> <code>\n<b>x</b></code> <co: 0>a</co: 0>",
            " <co: 2>a < b <= c << d <0.5 <-> <é></co: 2> <b>bold</b>",
            " <b>",
            " <Col>, <Cohere> and <c>",
            " a <",
            " <co: 0,1,2,3,4,5,6,7,8,9,10,11>a</co: 0,1,2,3,4,5,6,7,8,9,10,11>",
        ],
    )
    def test_answers_that_keep_to_the_format(self, answer: str) -> None:
        assert allows(grounded_grammar(12, "fast"), HEAD + answer)

    @pytest.mark.parametrize(
        "answer",
        [
            "",
            " \n",
            " <co: 0>a",
            " <co: 0>a</co: 1>",
            " <co: 0,1>a</co: 0>",
            " <co: 0>a</co: 0,1>",
            " <co: 10,11,9>a</co: 10,11,8>",
            " <co: 0>a</co>",
            " <co:0>a</co:0>",
            " <co: >a</co: >",
            " a</co: 0>",
            " <co: 0>a <co: 1>b</co: 1></co: 0>",
            " <co: x>",
            " a <co",
            " a <c",
            " <b> a </",
            " a </b>",
            " <co: 0>a</b></co: 0>",
            " a</co> <code>",
            " </code>",
            " <co: 0><code></co: 0>",
            " <co: 0>a <b>bold</co: 0>",
            " <co: 0>a <h: 2>b</co: 0>",
            " <co: 0>a <: 2>b</co: 0>",
            " <co: 0>a <</co: 0>",
        ],
    )
    def test_answers_that_break_it(self, answer: str) -> None:
        assert not allows(grounded_grammar(12, "fast"), HEAD + answer)

    def test_the_plain_answer_ends_at_the_grounded_one(self) -> None:
        head = HEAD.replace("Grounded answer:", "Answer:")
        grammar = grounded_grammar(2)
        assert allows(
            grammar, f"{head} one\n\ntwo\nGrounded answer\nGrounded answers:\n\nGrounded answer: <co: 0>one</co: 0>"
        )
        assert not allows(grammar, f"{head} one <co: 0>a</co: 0>\nGrounded answer: one")
        assert allows(grammar, f"{head} <code>\n</code>\nGrounded answer: <code>")
        assert not allows(grammar, f"{head} one")
        assert not allows(grammar, f"{HEAD} one")
        assert not allows(grounded_grammar(2, "fast"), f"{head} one\nGrounded answer: one")

    def test_what_is_announced_not_to_be_cited_is_not_cited(self) -> None:
        head = "Relevant Documents: 0\nCited Documents: None\n"
        plain = "Answer: a < <b>b</b>\n"
        for grammar, parts in (
            (grounded_grammar(2), head + plain),
            (grounded_grammar(2, "fast"), head),
            (multi_step_grammar(tools(), 2), head),
            (multi_step_grammar(tools(), 2), head + plain),
        ):
            assert allows(grammar, f"{parts}Grounded answer: a < <b>b</b>")
            assert not allows(grammar, f"{parts}Grounded answer: <co: 0>a</co: 0>")
            assert allows(grammar, f"{parts}Grounded answer: <co: 0>a</co: 0>".replace("None", "1"))

    def test_without_documents_nothing_is_cited(self) -> None:
        head = "Relevant Documents: None\nCited Documents: None\nGrounded answer:"
        assert allows(grounded_grammar(0, "fast"), f"{head} I do not know.")
        assert not allows(grounded_grammar(0, "fast"), f"{head} <co: 0>a</co: 0>")
        assert not allows(grounded_grammar(0, "fast"), f"{HEAD} a")
        with pytest.raises(ArgumentError, match="n_documents"):
            grounded_grammar(-1)


def test_a_step_is_calls_or_a_grounded_answer_with_a_thought_or_without() -> None:
    grammar = multi_step_grammar(tools(query="str!"), 3)
    call = actions(("search", {"query": "a"}))
    answer = "Relevant Documents: 0,2\nCited Documents: 2\nAnswer: a\nGrounded answer: <co: 2>a</co: 2>"
    for thought in ("", "Plan: I will search,\nthen answer. Action!\n", "Reflection: I know.\n", "\nPlan: so\n"):
        assert allows(grammar, thought + call)
        assert allows(grammar, thought + answer)
    assert allows(grammar, answer.replace("Answer: a\n", ""))
    assert not allows(grammar, "I will search.\n" + call)
    assert not allows(grammar, f"{call}\n{answer}")
    assert not allows(grammar, answer.replace("2>", "3>"))


class TestPlain:
    @pytest.mark.parametrize(
        ("schema", "right", "wrong"),
        [
            (True, '{"a": [1, null]}', "a"),
            ({"type": "integer", "minimum": 3}, "12", "2"),
            ('{"enum": ["a/b", 1]}', '"a/b"', '"a"'),
            ({"properties": {"not": {"type": "string"}}, "required": ["not"], "type": "object"}, '{"not": "x"}', "{}"),
            ({"type": "array", "items": {"type": "string"}}, '[ "a", "b" ]', '[\n    "a",\n    "b"\n]'),
            (True, '{"a":1, "b" : { }}', '{"a":  1}'),
            ({"type": "object"}, "{}", "{\n}"),
        ],
    )
    def test_json_keeps_to_its_schema(self, schema: Any, right: str, wrong: str) -> None:
        assert allows(json_schema_grammar(schema), right)
        assert not allows(json_schema_grammar(schema), wrong)

    def test_expressions_match_the_whole_text(self) -> None:
        assert allows(regex_grammar(r"[ab]+/\d"), "abba/1")
        assert not allows(regex_grammar(r"[ab]+/\d"), "abba/1!")
        assert not allows(regex_grammar("a/\nb: /x"), "x")

    def test_a_grammar_is_given_back(self) -> None:
        text = 'start: "a" b\nb: /[0-9]+/\n'
        assert lark_grammar(text) == text
        assert allows(text, "a12")

    @pytest.mark.parametrize(
        ("make", "argument", "sentence"),
        [
            (json_schema_grammar, False, "schema is false"),
            (json_schema_grammar, {"enum": []}, "the schema cannot constrain a text: Unsatisfiable"),
            (json_schema_grammar, {"if": {"type": "string"}}, r'Unimplemented keys: \["if"\]'),
            (
                json_schema_grammar,
                {"properties": {"a": {"minlength": 3}}},
                "the keyword 'minlength', which is not known",
            ),
            (json_schema_grammar, {"anyOf": [{"items": {"nullable": True}}]}, "the keyword 'nullable'"),
            (json_schema_grammar, {"type": "string", "format": "x"}, "Unknown format: x"),
            (json_schema_grammar, {"const": object()}, "the schema is no JSON schema: .*object"),
            (json_schema_grammar, '{"a"', "the schema is not valid JSON"),
            (json_schema_grammar, 3, "the schema must be a mapping or True, not 3"),
            (regex_grammar, "(?=a)", "look-around"),
            (regex_grammar, "(", "the pattern '[(]' cannot constrain a text: unclosed group"),
            (regex_grammar, 3, "the pattern must be a string, not 3"),
            (lark_grammar, "start: x", 'the grammar cannot constrain a text: .*unknown name: "x"'),
            (lark_grammar, None, "the grammar must be a string, not None"),
        ],
    )
    def test_what_cannot_be_enforced_is_refused(self, make: Callable[[Any], str], argument: Any, sentence: str) -> None:
        with pytest.raises(ArgumentError, match=sentence):
            make(argument)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"type": ["integer", "null"]},
        {"type": "integer", "minimum": 5},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    ],
)
def test_integers_end(schema: dict[str, Any]) -> None:
    for grammar in (json_schema_grammar(schema), json_schema_grammar({"type": "array", "items": schema})):
        inner = "[{}]" if "array" in grammar else "{}"
        assert allows(grammar, inner.format("9" * 15))
        assert not allows(grammar, inner.format("9" * 16))
    assert allows(json_schema_grammar({"type": "integer", "maximum": 10**17}), "9" * 17)


def test_large_requests_compile_fast() -> None:
    types = ("str!", "int", "List[str]", "Optional[float]", "Dict[str, int]")
    definitions = tools(**{f"parameter_{i}": types[i % 5] for i in range(10)})[0]
    offered = [{**definitions, "name": f"tool_{i}"} for i in range(50)]
    constraints.engine("demo").constraint("start: /a/")
    started = time.process_time()
    constraints.engine("demo").constraint(tools_grammar(offered))  # type: ignore[arg-type]  # a TypedDict's copy
    constraints.engine("demo").constraint(grounded_grammar(1000))
    # Some 70 ms; what grows with the square of a request would take many times as long.
    assert time.process_time() - started < 1
