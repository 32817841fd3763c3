"""Replies of Command R7B and Command A: what their grammars let a model write, token by token."""

from __future__ import annotations

import functools
import json
import logging
import random
import re
from typing import Any

import jsonschema
import numpy as np
import pytest

import constraints
import tiny_tokenizer
from chat.replies import calls, citations, planned, shown, whole
from commandr_gguf import ArgumentError, Tokenizer
from commandr_gguf.chat import section_grammar as module
from commandr_gguf.chat.section_grammar import section_grammar
from commandr_gguf.chat.tools import normalize_tools
from commandr_gguf.constraint import ConstraintEngine

MARKS = [f"<|{side}_{name}|>" for name in ("THINKING", "ACTION", "RESPONSE", "TEXT") for side in ("START", "END")]
TOKENIZER = Tokenizer(
    [*tiny_tokenizer.vocabulary(), *tiny_tokenizer.TURN_TOKENS, *MARKS], tiny_tokenizer.merges(), bos_id=5
)
END = TOKENIZER.special_ids["<|END_OF_TURN_TOKEN|>"]
FIND_ORDER = 'the "best"'
FIND = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "n": {"type": "integer"}, "order": {"enum": ["date", FIND_ORDER]}},
    "required": ["city"],
}
TOOLS = normalize_tools([{"name": "find", "parameters": FIND}, {"name": "now"}])
RESULTS = [3, 0, 2]
THINKING = "<|START_THINKING|>I look it up.<|END_THINKING|>"
BOTH: tuple[Any, ...] = ("cmd3", "cmd4")


@functools.cache
def engine() -> ConstraintEngine:
    return ConstraintEngine(TOKENIZER, len(TOKENIZER))


def grammar(reply_format: Any = "cmd3", tools: Any = TOOLS, n_results: Any = RESULTS, **options: Any) -> str:
    text = section_grammar(reply_format, tools, n_results, TOKENIZER.special_ids, **options)
    assert text is not None
    return text


def allows(text: str, reply: str) -> bool:
    """Whether the whole reply may be written, its marks as control tokens, and may end there."""
    tokens = [*TOKENIZER.encode(reply, parse_special=True), END]
    return constraints.refused(engine().constraint(text), tokens) is None


def answer(text: str, reply_format: Any = "cmd3") -> str:
    name = "RESPONSE" if reply_format == "cmd3" else "TEXT"
    return f"<|START_{name}|>{text}<|END_{name}|>"


def action(text: str) -> str:
    return f"<|START_ACTION|>{text}<|END_ACTION|>"


def call(name: str, parameters: Any, identifier: str | None = "3", indent: int | None = None) -> str:
    head = {} if identifier is None else {"tool_call_id": identifier}
    return json.dumps({**head, "tool_name": name, "parameters": parameters}, ensure_ascii=False, indent=indent)


NOW = action(f"[{call('now', {})}]")


class TestSections:
    @pytest.mark.parametrize("reply_format", BOTH)
    def test_thoughts_may_stand_before_an_answer_and_before_calls(self, reply_format: Any) -> None:
        text = grammar(reply_format)
        for last in (answer("Yes.\n\n- a", reply_format), answer("", reply_format), action(f"[{call('now', {})}]")):
            for thoughts in ("", THINKING, f"{THINKING}\n", "<|START_THINKING|><|END_THINKING|>"):
                assert allows(text, thoughts + last)

    @pytest.mark.parametrize("reply_format", BOTH)
    @pytest.mark.parametrize(
        "reply",
        [
            "",
            "Yes.",
            THINKING,
            "<|START_THINKING|>I look it up.",
            f"<|START_ACTION|>[{call('now', {})}]",
            f"{NOW}Done.",
            f"Well. {NOW}",
            f"<|START_THINKING|>I {NOW}<|END_THINKING|>",
        ],
    )
    def test_sections_close_and_nothing_stands_beside_them(self, reply_format: Any, reply: str) -> None:
        assert not allows(grammar(reply_format), reply)

    def test_an_answer_has_the_marks_of_its_format_and_closes(self) -> None:
        for here, other in (BOTH, BOTH[::-1]):
            assert allows(grammar(here), answer("a", here))
            assert not allows(grammar(here), answer("a", other))
            assert not allows(grammar(here), answer("a", here).partition("<|END_")[0])
            assert not allows(grammar(here), answer("a", here) * 2)

    def test_marks_are_control_tokens_and_no_text_spells_them(self) -> None:
        constraint = engine().constraint(grammar())
        marks = ("<|START_THINKING|>", "<|START_RESPONSE|>", "<|START_ACTION|>")
        expected = np.zeros(len(TOKENIZER), dtype=bool)
        expected[[TOKENIZER.special_ids[mark] for mark in marks]] = True
        np.testing.assert_array_equal(constraints.allowed(constraint.mask(), len(TOKENIZER)), expected)
        for mark in MARKS:
            tokens = [TOKENIZER.special_ids["<|START_RESPONSE|>"], *TOKENIZER.encode(f"a {mark} b")]
            assert constraints.refused(engine().constraint(grammar()), tokens) is not None

    @pytest.mark.parametrize(
        "text", ["a <| b |> c <", "<|im_start|>", "x < y", "<code>a</code>, <col> and </col>", "</"]
    )
    def test_text_that_looks_like_marks_or_tags_is_allowed(self, text: str) -> None:
        assert allows(grammar(), answer(text)) == (text != "</")

    def test_without_tools_nothing_is_called(self) -> None:
        text = grammar(tools=[])
        assert allows(text, THINKING + answer("<co>a</co: 0:[0]>"))
        assert not allows(text, action(f"[{call('now', {})}]"))
        assert not allows(text, action(f"[{call('direct-injected-document', {})}]"))


class TestCalls:
    @pytest.mark.parametrize(
        "section",
        [
            f"[\n    {call('find', {'city': 'Łódź ]}'})},\n    {call('now', {}, '4')}\n]",
            f" [\n    {call('now', {})}\n] ",
            f"[{call('find', {'n': -1, 'order': 'date', 'city': 'x'})}]",
            f"[{call('find', {'city': 'x'}, None)}, {call('now', {}, None)}]",
            f"[{call('now', {}, None)}, {call('now', {}, '4')}]",
            f"[{call('find', {'order': FIND_ORDER, 'city': 'x'}, indent=4)}]",
            '[{"tool_name":"now","parameters":{}}]',
            '[{"parameters": {"city": "x"}, "tool_name": "find"}]',
            '[{"tool_call_id": "3", "parameters": {}, "tool_name": "now"}]',
        ],
    )
    def test_calls_of_the_offered_tools(self, section: str) -> None:
        assert allows(grammar(), action(section))
        assert allows(grammar("cmd4"), THINKING + action(section))

    @pytest.mark.parametrize(
        "section",
        [
            f"[{call('fond', {'city': 'x'})}]",
            f"[{call('find', {})}]",
            f"[{call('find', {'n': 1})}]",
            f"[{call('find', {'city': 1})}]",
            f"[{call('find', {'city': None})}]",
            f"[{call('find', {'city': 'x', 'n': None})}]",
            f"[{call('find', {'city': 'x', 'n': 1.5})}]",
            f"[{call('find', {'city': 'x', 'order': 'worst'})}]",
            f"[{call('find', {'city': 'x', 'country': 'y'})}]",
            f"[{call('now', {'city': 'x'})}]",
            '[{"tool_name": "find", "parameters": {"city": "x", "city": "y"}}]',
            '[{"parameters": {}, "tool_name": "find"}]',
            '[{"parameters": {"city": "x"}, "tool_name": "now"}]',
            '[{"tool_name": "now"}]',
            '[{"tool_name": "now", "parameters": {}',
            f"[{call('now', {})}",
            f"[{call('now', {})},]",
            call("now", {}),
            "[]",
            "",
            "none",
        ],
    )
    def test_wrong_calls_are_impossible(self, section: str) -> None:
        assert not allows(grammar(), action(section))

    def test_calls_are_numbered_on_from_those_of_the_prompt(self) -> None:
        for first in (0, 1, 11):
            text = grammar(n_results=[1] * first)
            assert allows(text, action(f"[{call('now', {}, str(first))}, {call('now', {}, str(first + 1))}]"))
            assert not allows(text, action(f"[{call('now', {}, str(first + 1))}]"))
            assert not allows(text, action(f"[{call('now', {}, str(first))}, {call('now', {}, str(first))}]"))

    def test_the_number_of_calls_has_a_limit(self) -> None:
        one = call("now", {}, None)
        assert allows(grammar(), action(f"[{', '.join([one] * 32)}]"))
        assert not allows(grammar(), action(f"[{', '.join([one] * 33)}]"))

    def test_names_of_others_are_text_and_nothing_else(self) -> None:
        for name in ('a"b\\', '"\nstart: /.*/\n', "<|END_OF_TURN_TOKEN|>", "%json {}", "e\u0301"):
            schema = {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}
            constraint = engine().constraint(grammar(tools=normalize_tools([{"name": name, "parameters": schema}])))
            name_text = json.dumps(name, ensure_ascii=False)
            before = '[{"tool_name": '
            for token in TOKENIZER.encode("<|START_ACTION|>" + before, parse_special=True):
                constraint.accept(token)
            assert TOKENIZER.decode(constraint.forced()).startswith(name_text)

    def test_what_cannot_be_enforced_is_refused_by_name(self) -> None:
        schema = {"type": "object", "properties": {"value": {"type": "array", "uniqueItems": True}}}
        with pytest.raises(ArgumentError, match=r"'value' of tool 'search' .*uniqueItems"):
            grammar(tools=normalize_tools([{"name": "search", "parameters": schema}]))
        with pytest.raises(ArgumentError, match="tool 'search' have the keyword 'minProperties'"):
            grammar(tools=normalize_tools([{"name": "search", "parameters": {"minProperties": 1}}]))

    def test_what_has_no_other_choice_is_forced(self) -> None:
        constraint = engine().constraint(grammar())
        for token in TOKENIZER.encode('<|START_ACTION|>[{"tool_name": "f', parse_special=True):
            constraint.accept(token)
        assert TOKENIZER.decode(constraint.forced()).startswith("ind")


class TestCitations:
    @pytest.mark.parametrize(
        "text",
        [
            "It opened in <co>1987</co: 0:[1,2],2:[0]>.",
            "<co>한국 😀</co: 2:[1]> <co>b\n\nc</co: 0:[0, 2], 2:[0]>",
            "<co>a < b <= c</co: 0:[0]> and <code>x</code>",
            "none at all",
        ],
    )
    def test_citations_of_results_that_exist(self, text: str) -> None:
        for reply_format in BOTH:
            assert allows(grammar(reply_format), answer(text, reply_format))
            thoughts = f"<|START_THINKING|>{text}<|END_THINKING|>"
            assert allows(grammar(reply_format), thoughts + answer(text, reply_format))

    @pytest.mark.parametrize(
        "tag",
        ["0:[3]", "0:[10]", "0:[00]", "1:[0]", "2:[2]", "3:[0]", "0:[0],3:[0]", "0:[]", "0:[0,]", "0", "0:0", "", "x"],
    )
    def test_citations_of_anything_else_are_impossible(self, tag: str) -> None:
        assert not allows(grammar(), answer(f"<co>a</co: {tag}>"))
        assert not allows(grammar(), f"<|START_THINKING|><co>a</co: {tag}><|END_THINKING|>{answer('b')}")

    @pytest.mark.parametrize(
        "text",
        ["<co>a", "<co>a</co>", "a</co: 0:[0]>", "<co>a <co>b</co: 0:[0]> c</co: 0:[0]>", "<co>a</co: 0:[0]", "<co"],
    )
    def test_tags_close_and_do_not_nest(self, text: str) -> None:
        assert not allows(grammar(), answer(text))
        assert not allows(grammar(), f"<|START_THINKING|>{text}<|END_THINKING|>{answer('b')}")

    @pytest.mark.parametrize("n", [1, 9, 10, 11, 37, 1000])
    def test_numbers_are_those_of_the_results(self, n: int) -> None:
        text = grammar(tools=[], n_results=[0, n])
        for number in {0, 1, 9, 10, n // 2, n - 1, n, n + 1, 10 * n}:
            assert allows(text, answer(f"<co>a</co: 1:[{number}]>")) == (number < n), number

    def test_without_results_or_when_switched_off_nothing_is_cited(self) -> None:
        for text in (grammar(n_results=[]), grammar(n_results=[0]), grammar(cite=False), grammar(tools=[], cite=False)):
            assert allows(text, THINKING + answer("a <b>c</b>"))
            assert not allows(text, answer("<co>a</co: 0:[0]>"))


class TestNoGrammar:
    def test_nothing_was_offered(self) -> None:
        for n_results in ([], [0, 0]):
            assert section_grammar("cmd3", [], n_results, TOKENIZER.special_ids) is None

    def test_a_vocabulary_without_the_marks_is_named_once(self, caplog: pytest.LogCaptureFixture) -> None:
        module._say_missing.cache_clear()
        known = {mark: i for i, mark in enumerate(MARKS) if mark != "<|END_TEXT|>"}
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert section_grammar("cmd4", TOOLS, [], known) is None
        assert [record.message for record in caplog.records] == [
            "the vocabulary has no control token <|END_TEXT|>, so replies with sections are not constrained"
        ]
        assert section_grammar("cmd3", TOOLS, [], known) is not None


PHRASES = [*MARKS, "<co>", "</co: ", "0:[", "2:[", "1", "]", ">", ",", " <", '"', "[", "{", "}", ": ", '"tool_name"']
PHRASES += [
    '"tool_call_id": "',
    '"parameters": {',
    '"find"',
    '"now"',
    '"city": "',
    '"n": ',
    "a b",
    "\n",
    "<|END_OF_TURN",
]


def random_reply(text: str | None, seed: int, n_max: int = 300) -> str | None:
    """What a model that knows the words of the format, but not its rules, writes; None when it comes to no end."""
    rng = random.Random(seed)
    constraint = None if text is None else engine().constraint(text)
    phrases = [TOKENIZER.encode(phrase, parse_special=True) for phrase in PHRASES]
    tokens: list[int] = []
    planned: list[int] = []
    while len(tokens) < n_max:
        may = np.ones(len(TOKENIZER), dtype=bool)
        if constraint is not None:
            may = constraints.allowed(constraint.mask(), len(TOKENIZER))
        if not planned or not may[planned[0]]:
            known = [phrase for phrase in phrases if may[phrase[0]]]
            if may[END] and rng.random() < 0.3:
                planned = [END]
            elif known and rng.random() < 0.6:
                planned = list(rng.choice(known))
            else:
                planned = [int(rng.choice(np.flatnonzero(may)))]
        token = planned.pop(0)
        if constraint is not None:
            constraint.accept(token)
        if token in TOKENIZER.end_of_generation:
            written = b"".join(map(TOKENIZER.token_bytes, tokens))
            return written.decode("utf-8", "replace" if constraint is None else "strict")
        tokens.append(token)
    return None


def check(reply: str, reply_format: Any) -> Any:
    """The parser's events, when a reply keeps to the format; raises when not."""
    name = "RESPONSE" if reply_format == "cmd3" else "TEXT"
    form = re.fullmatch(
        r"(?:<\|START_THINKING\|>(.*?)<\|END_THINKING\|>\s{0,8})?"
        rf"(?:<\|START_ACTION\|>(.*)<\|END_ACTION\|>|<\|START_{name}\|>(.*)<\|END_{name}\|>)",
        reply,
        re.DOTALL,
    )
    assert form
    thoughts, section, text = form.groups()
    events = whole(reply_format, reply, n_results=RESULTS)
    for part in (thoughts or "", text or ""):
        tags = re.findall(r"<co>|</co: ([^>]*)>", part)
        assert [bool(tag) for tag in tags] == [False, True] * (len(tags) // 2)
        for call_, numbers in re.findall(r"(\d+):\[([\d, ]+)\]", " ".join(tags)):
            assert all(int(number) < RESULTS[int(call_)] for number in numbers.split(","))
        assert not re.search(r"</?co[>:]|<\|(?:START|END)_[A-Z]+\|>", re.sub(r"<co>|</co: [^>]*>", "", part))
    plain = re.sub(r"<co>|</co: [^>]*>", "", text or "")
    assert shown(events).strip() == plain.strip()
    assert planned(events).strip() == re.sub(r"<co>|</co: [^>]*>", "", thoughts or "").strip()
    if section is not None:
        values = json.loads(section)
        assert [(found.name, found.parameters) for found in calls(events)] == [
            (value["tool_name"], value["parameters"]) for value in values
        ]
        for number, value in enumerate(values, start=len(RESULTS)):
            assert value.get("tool_call_id", str(number)) == str(number)
            schema = FIND if value["tool_name"] == "find" else {"maxProperties": 0}
            assert value["tool_name"] in {"find", "now"}
            jsonschema.validate(value["parameters"], {**schema, "additionalProperties": False})
    return events


@functools.cache
def random_replies(reply_format: Any) -> list[str]:
    text = grammar(reply_format)
    return [reply for seed in range(40) if (reply := random_reply(text, seed)) is not None]


@pytest.mark.parametrize("reply_format", BOTH)
def test_a_random_writer_cannot_break_the_format(reply_format: Any) -> None:
    replies = random_replies(reply_format)
    assert len(replies) >= 15
    for reply in replies:
        check(reply, reply_format)


def test_without_the_grammar_the_same_writer_breaks_it() -> None:
    replies = [reply for seed in range(40) if (reply := random_reply(None, seed)) is not None]
    assert len(replies) >= 10
    for reply in replies:
        with pytest.raises((AssertionError, ValueError, LookupError)):
            check(reply, "cmd3")


def test_random_replies_use_what_the_format_has() -> None:
    """The tests above would pass with grammars that allow too little."""
    events = [check(reply, reply_format) for reply_format in BOTH for reply in random_replies(reply_format)]
    assert {found.name for one in events for found in calls(one)} == {"find", "now"}
    assert {key for one in events for found in calls(one) for key in found.parameters} == {"city", "n", "order"}
    assert {number for one in events for cited in citations(one) for number in cited.documents} >= {0, 1, 3}
    assert any(planned(one) for one in events)


@pytest.mark.parametrize("reply_format", BOTH)
def test_one_call_may_be_all_that_is_allowed(reply_format: Any) -> None:
    several = action(f"[{call('now', {})}, {call('now', {}, '4')}]")
    free, single = grammar(reply_format), grammar(reply_format, max_calls=1)
    assert allows(free, NOW)
    assert allows(free, several)
    assert allows(single, NOW)
    assert not allows(single, several)


@pytest.mark.parametrize("reply_format", BOTH)
def test_a_tool_may_have_to_be_called(reply_format: Any) -> None:
    free, forced = (grammar(reply_format, must_call=must_call) for must_call in (False, True))
    for reply in (NOW, THINKING + NOW):
        assert allows(forced, reply)
    for reply in (answer("It opened.", reply_format), THINKING + answer("It opened.", reply_format)):
        assert allows(free, reply)
        assert not allows(forced, reply)
    without_tools = section_grammar(reply_format, [], [1], TOKENIZER.special_ids, must_call=True)
    assert without_tools is not None
    assert allows(without_tools, answer("It opened.", reply_format))
