"""Generated examples: repeatable, of one split, and right by their own account."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterator
from typing import get_args

import pytest

from commandr_gguf import parse_actions, parse_grounded_answer
from commandr_gguf.demo import showcase
from commandr_gguf.demo.data.chat import SMALL_TALK
from commandr_gguf.demo.data.example import TASKS, Example, Task
from commandr_gguf.demo.data.grounded import NOT_FOUND
from commandr_gguf.demo.data.names import Split, belongs
from commandr_gguf.demo.data.relations import KINDS
from commandr_gguf.demo.data.source import Prompts, Source
from commandr_gguf.demo.templates import CHAT_TEMPLATES

SPLITS: tuple[Split, ...] = get_args(Split)
GROUNDED: tuple[Task, ...] = ("accurate", "fast")
COUNT = 2000


@functools.cache
def drawn(split: Split, task: Task) -> list[Example]:
    """Fast enough for training, whatever is drawn: this is the test that nothing is drawn for ever."""
    return list(Source(split, 5).examples(task, COUNT))


def of_both_splits(*tasks: Task) -> Iterator[Example]:
    return itertools.chain.from_iterable(drawn(split, task) for split in SPLITS for task in tasks)


def values(example: Example) -> set[str]:
    """What a reply has to copy."""
    parameters = example.call["parameters"].values() if example.call else ()
    return {*map(str, parameters), *example.facts} - {NOT_FOUND}


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_gives_the_same_examples(split: Split) -> None:
    def draw(seed: int) -> list[Example]:
        source = Source(split, seed)
        return [source.example(task) for task in TASKS for _ in range(50)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


@pytest.mark.parametrize("task", TASKS)
def test_the_splits_share_no_entity(task: Task) -> None:
    of_test, of_train = ({e for example in drawn(split, task) for e in example.entities} for split in ("test", "train"))
    assert len(of_test) > 100
    assert len(of_train) > 500
    assert not of_test & of_train


def test_the_splits_share_no_value_and_no_tool() -> None:
    of_test, of_train = (
        {value for task in TASKS for example in drawn(split, task) for value in values(example)}
        for split in ("test", "train")
    )
    assert len(of_test) > 1000
    assert not of_test & of_train
    tools_of_test, tools_of_train = (
        {tool["name"] for example in drawn(split, "tools") for tool in example.tools} - {"directly_answer"}
        for split in ("test", "train")
    )
    assert len(tools_of_test) > 500
    assert not tools_of_test & tools_of_train


def numbers(text: str) -> set[str]:
    """Numbers of two or more digits that are no part of a word, code, time, address or decimal, without commas."""
    found = re.findall(r"(?<![\w.,:@-])(\d{1,3}(?:,\d{3})+|\d{2,})(?![\w@-]|[.,:]\d)", text)
    return {number.replace(",", "") for number in found}


def test_no_number_of_the_test_split_stands_alone_in_a_training_example() -> None:
    """Nor as a part of a longer value, such as the day or the year of a date."""
    copied = {value for task in TASKS for example in drawn("test", task) for value in values(example)}
    of_test = {number for value in copied for number in numbers(value)}
    of_train = set()
    for task in TASKS:
        for example in drawn("train", task):
            said = [message["content"] for message in example.messages]
            written = [text for document in example.documents for text in document.values()]
            of_train |= numbers("\n".join([*said, *written, example.reply]))
    assert any(numbers(value) for value in copied if re.fullmatch(r"\d\d [A-Z][a-z]+ \d{4}", value))
    assert len(of_test) > 400
    assert len(of_train) > 2000
    assert not of_test & of_train


def test_what_decides_on_the_split_is_the_spelling() -> None:
    names = [f"name{i}" for i in range(8000)]
    held_out = {name for name in names if belongs(name, "test")}
    assert all(belongs(name, "train") != (name in held_out) for name in names)
    assert 800 < len(held_out) < 1200
    assert all(belongs(name.upper(), "test") for name in held_out)


@pytest.mark.parametrize("split", SPLITS)
def test_all_that_a_reply_copies_was_drawn_for_its_example(split: Split) -> None:
    for task in ("tools", *GROUNDED):
        for example in drawn(split, task):
            for value in values(example):
                assert any(entity in value.lower().replace(",", "") for entity in example.entities), (value, example)


@pytest.mark.parametrize("task", TASKS)
def test_no_example_spells_a_control_token(task: Task) -> None:
    for example in of_both_splits(task):
        content = [example.messages, example.tools, example.documents, example.reply]
        assert not re.search(r"<\|?[A-Z0-9_]+\|?>", json.dumps(content))


@pytest.mark.parametrize("task", TASKS)
def test_messages_are_a_conversation_that_the_user_ends(task: Task) -> None:
    for example in of_both_splits(task):
        roles = [message["role"] for message in example.messages]
        if roles[0] == "system":
            roles.pop(0)
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert example.task == task
        assert example.reply.strip() == example.reply != ""


# ---- tools


def test_an_action_parses_to_the_call() -> None:
    for example in of_both_splits("tools"):
        assert example.call is not None
        calls = [{"tool_name": call.name, "parameters": call.parameters} for call in parse_actions(example.reply)]
        assert calls == ([] if example.call["tool_name"] == "directly_answer" else [example.call])


def test_a_call_is_what_its_tool_takes_and_its_question_says() -> None:
    kinds = {"str": str, "int": int, "float": float}
    for example in of_both_splits("tools"):
        assert example.call is not None
        name, parameters = example.call["tool_name"], example.call["parameters"]
        if name == "directly_answer":
            assert parameters == {}
            continue
        (tool,) = [tool for tool in example.tools if tool["name"] == name]
        taken = tool["parameter_definitions"]
        assert {key for key, parameter in taken.items() if parameter["required"]} <= parameters.keys() <= taken.keys()
        assert len(parameters) in {1, 2}
        for key, value in parameters.items():
            assert type(value) is kinds[taken[key]["type"]]
            assert str(value) in example.messages[-1]["content"]


def test_one_to_four_tools_are_offered_and_perhaps_none_is_to_be_called() -> None:
    offered, without = set(), 0
    for example in of_both_splits("tools"):
        names = [tool["name"] for tool in example.tools]
        assert len(set(names)) == len(names)
        offered.add(len(set(names) - {"directly_answer"}))
        without += example.call is not None and example.call["tool_name"] == "directly_answer"
    assert offered == {1, 2, 3, 4}
    assert 0.1 < without / (2 * COUNT) < 0.3


# ---- documents


@pytest.mark.parametrize("task", GROUNDED)
def test_a_grounded_reply_cites_what_stands_in_its_documents(task: Task) -> None:
    for example in of_both_splits(task):
        answer = parse_grounded_answer(example.reply)
        assert answer.answer == (answer.text if task == "accurate" else None)
        assert tuple(answer.cited) == example.cited
        assert set(answer.cited) <= set(answer.relevant) <= set(range(len(example.documents)))
        assert {number for citation in answer.citations for number in citation.documents} == set(example.cited)
        for citation in answer.citations:
            for number in citation.documents:
                text = " ".join(example.documents[number].values())
                assert re.search(rf"(?<!\w){re.escape(citation.text)}(?!\w)", text), (citation, example)


@pytest.mark.parametrize("task", GROUNDED)
def test_facts_are_the_cited_spans_or_that_there_is_none(task: Task) -> None:
    for example in of_both_splits(task):
        answer = parse_grounded_answer(example.reply)
        if example.cited:
            assert example.facts == tuple(citation.text for citation in answer.citations)
        else:
            assert example.facts == (NOT_FOUND,)
            assert (answer.text, answer.citations) == (NOT_FOUND, [])


@pytest.mark.parametrize("task", GROUNDED)
def test_numbers_of_documents_and_facts(task: Task) -> None:
    examples = list(of_both_splits(task))
    assert {len(example.documents) for example in examples} == {1, 2, 3, 4, 5}
    assert {len(example.facts) for example in examples} == {1, 2}
    assert {len(example.cited) for example in examples} == {0, 1, 2}
    assert 0.05 < sum(not example.cited for example in examples) / len(examples) < 0.2
    assert {number for example in examples for number in example.cited} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("split", SPLITS)
def test_a_question_names_what_it_asks_about_when_something_is_found(split: Split) -> None:
    """A document that is cited is about a subject of the question: its own name stands in both."""
    for example in drawn(split, "accurate"):
        question = example.messages[-1]["content"].lower()
        for number in example.cited:
            title = example.documents[number].get("title")
            assert title is None or title.lower() in question


# ---- the demonstration


def test_the_demonstration_asks_for_a_call_as_the_training_does() -> None:
    taken = {
        (name, parameter["type"], parameter["description"])
        for example in of_both_splits("tools")
        for tool in example.tools
        for name, parameter in tool["parameter_definitions"].items()
    }
    for tool in showcase.TOOLS:
        verb, noun = tool["name"].split("_")
        assert tool["description"].lower().startswith(f"{verb}s ")
        assert noun in tool["description"]
        for name, parameter in tool["parameter_definitions"].items():
            assert (name, parameter["type"], parameter["description"]) in taken
    requests = [example.messages[-1]["content"] for example in of_both_splits("tools")]
    parts = (r"Please book a \w+", r" for \d\d people", r" in the name of [A-Z]\w+ [A-Z]\w+")
    assert re.fullmatch("".join(parts) + r"\.", showcase.TOOL_QUESTION)
    for part in parts:
        assert any(re.search(part, request) for request in requests), part
    assert showcase.CHAT.lower().rstrip("?.!") in {request.lower().rstrip("?.!") for request in SMALL_TALK}


def test_the_demonstration_has_documents_as_the_training_does() -> None:
    kinds = []
    for document in showcase.DOCUMENTS:
        title, text = document["title"], document["text"]
        for kind in KINDS:
            form = "|".join(re.escape(form).replace(r"\{n\}", r"\w+") for form in kind.forms if form != "{n}")
            start = "|".join((f"{'The ' if kind.article else ''}{re.escape(title)}", *kind.pronouns))
            said = "|".join(
                re.escape(statement).replace(r"\{v\}", r"(?:\d[\d,]+\w*|[\w ]+)(?: \w+)?")
                for relation in kind.relations
                for statement in relation.statements
            )
            if re.fullmatch(form or "-", title) and re.fullmatch(rf"(?:(?:{start}) (?:{said})\.(?: |$))+", text):
                kinds.append(kind)
        for number in re.findall(r"\d[\d,]*", text):
            assert len(number) in {2, 3, 4} or "," in number
    assert len(kinds) == len(showcase.DOCUMENTS) == len(set(map(id, kinds)))


# ---- sizes


@pytest.mark.parametrize("split", SPLITS)
def test_size_0_gives_short_examples(split: Split) -> None:
    source = Source(split, 6)
    for _ in range(300):
        assert len(source.example("chat", 0).messages) <= 4
        assert len({tool["name"] for tool in source.example("tools", 0).tools} - {"directly_answer"}) == 1
        for task in GROUNDED:
            (document,) = source.example(task, 0).documents
            assert list(document.values())[-1].count(". ") == 0


def test_prompts_end_where_the_reply_begins() -> None:
    prompts = Prompts(CHAT_TEMPLATES)
    for example in itertools.islice(of_both_splits(*TASKS), 0, None, 97):
        text = prompts.render(example)
        assert text.startswith("<BOS_TOKEN><|START_OF_TURN_TOKEN|>")
        assert text.endswith("<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>")
        assert text.count("<BOS_TOKEN>") == 1
        assert example.messages[-1]["content"] in text
        assert all(tool["name"] in text for tool in example.tools)
        assert all(value in text for document in example.documents for value in document.values())
