"""Which template shows a request, and what takes the place of those that a file lacks."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

import data
import tiny_tokenizer
from commandr_gguf import ArgumentError, ChatTemplate, Tokenizer, UnsupportedError
from commandr_gguf.chat.templates import FALLBACK_TEMPLATES
from prompt_files import Prompts

TOKENIZER = Tokenizer([*tiny_tokenizer.vocabulary(), *tiny_tokenizer.TURN_TOKENS], tiny_tokenizer.merges(), bos_id=5)
ASK = [{"role": "user", "content": "Who?"}]
TURNS = [*ASK, {"role": "assistant", "content": " He. "}, {"role": "user", "content": "And {{ x }}?"}]
SYSTEM = [{"role": "system", "content": " Be brief. "}]
TOOLS: list[dict[str, Any]] = [
    {
        "name": "find",
        "description": "Finds\n it.",
        "parameter_definitions": {
            "q": {"type": "str", "description": "What.", "required": True},
            "n": {"type": "int", "description": "", "required": False},
        },
    },
    {"name": "now", "description": "Gives the time.", "parameter_definitions": {}},
]
DOCUMENTS = [{"title": "A", "text": "b\n"}, {"text": "c"}]
REQUESTS: list[dict[str, Any]] = [
    {},
    {"tools": TOOLS},
    {"documents": DOCUMENTS},
    {"documents": DOCUMENTS, "citation_mode": "fast"},
    {"documents": []},
]


def test_a_file_with_all_templates_is_taken_at_its_word(caplog: pytest.LogCaptureFixture) -> None:
    sources = {name: f"{name} {{{{ citation_mode }}}}" for name in ("default", "tool_use", "rag")}
    prompts = Prompts(TOKENIZER, sources)
    texts = [prompts(ASK, **options).text for options in REQUESTS]
    assert texts == ["default accurate", "tool_use accurate", "rag accurate", "rag fast", "rag accurate"]
    assert caplog.records == []


def test_a_file_without_templates_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    prompts = Prompts(TOKENIZER, {"default": tiny_tokenizer.CHAT_TEMPLATES["default"]})
    for _ in range(2):
        for options in REQUESTS:
            assert prompts(TURNS, **options).text.endswith("<|CHATBOT_TOKEN|>")
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "commandr_gguf.chat")
    assert record.getMessage() == (
        "x.gguf: there is no chat template 'tool_use'; one of the published structure takes its place"
    )


def test_the_default_template_has_a_stand_in_too_and_other_names_have_none() -> None:
    prompts = Prompts(TOKENIZER, {})
    assert prompts(TURNS).text == prompts.renderer.template().render(TURNS, bos_token="<BOS_TOKEN>")
    with pytest.raises(UnsupportedError, match=r"x\.gguf: there is no chat template 'other'"):
        prompts.renderer.template("other")


@pytest.mark.parametrize("options", REQUESTS)
def test_stand_ins_begin_turns_as_the_embedded_templates_do(options: dict[str, Any]) -> None:
    own, embedded = (Prompts(TOKENIZER, sources) for sources in ({}, tiny_tokenizer.CHAT_TEMPLATES))
    for messages in (TURNS, [*SYSTEM, *TURNS]):
        ids = [
            [token for token in prompts(messages, **options).tokens if TOKENIZER.is_special(token)]
            for prompts in (own, embedded)
        ]
        assert ids[0] == ids[1]


@pytest.mark.data
@pytest.mark.parametrize("system", [[], SYSTEM])
@pytest.mark.parametrize("options", REQUESTS)
def test_stand_ins_differ_from_the_published_templates_in_sentences_only(options: Any, system: Any) -> None:
    config = json.loads((data.real_tokenizer_dir() / "tokenizer_config.json").read_text(encoding="utf-8"))
    published = {entry["name"]: entry["template"] for entry in config["chat_template"]}
    ours, theirs = (
        Prompts(TOKENIZER, sources)([*system, *TURNS], **options).text.split("\n")
        for sources in (FALLBACK_TEMPLATES, published)
    )
    different = [i for i, lines in enumerate(zip(ours, theirs, strict=True)) if lines[0] != lines[1]]
    if not options:
        assert different == []
        return
    basic_rules = theirs.index("## Basic Rules") + 1
    allowed = {basic_rules}
    if not system:
        allowed.add(theirs.index("## Task and Context") + 1)
    if "tools" in options:
        turns, example = (
            i for i, line in enumerate(theirs) if "Write 'Action:'" in line or '"parameters": a dict' in line
        )
        allowed |= {turns, example}
        marks = "<|SYSTEM_TOKEN|>Write 'Action:' followed by a json-formatted list of"
        assert ours[turns].partition(marks)[:2] == theirs[turns].partition(marks)[:2]
    assert set(different) == allowed


def test_a_template_that_raises_says_why() -> None:
    prompts = Prompts(TOKENIZER, {"default": "{{ raise_exception('no, thanks') }}"})
    with pytest.raises(ArgumentError, match="'default' does not take these messages: no, thanks"):
        prompts(ASK)
    alternating = Prompts(TOKENIZER, {})
    with pytest.raises(ArgumentError, match="Conversation roles must alternate"):
        alternating([*ASK, *ASK])


@pytest.mark.parametrize(("mark", "family"), [("<|START_RESPONSE|>", "cmd3"), ("<|START_TEXT|>", "cmd4")])
def test_the_later_models_take_their_own_template_for_plain_conversations(mark: str, family: str) -> None:
    source = "{{ bos_token }}" + mark + "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"
    prompts = Prompts(TOKENIZER, {"default": source})
    assert prompts.renderer.family == family
    assert prompts(TURNS).text == ChatTemplate(source).render(TURNS, bos_token="<BOS_TOKEN>")
    for options in ({"tools": TOOLS}, {"documents": DOCUMENTS}):
        prompt = prompts(TURNS, **options)
        assert "<|START_ACTION|>" in prompt.text or family == "cmd4"
        assert prompt.text.startswith("<BOS_TOKEN><|START_OF_TURN_TOKEN|>")
        assert prompt.tokens[0] == 5
        assert prompt.tokens.count(5) == 1


def test_the_sign_may_stand_in_any_template() -> None:
    sources = {"default": "{{ bos_token }}", "tool_use": "{{ bos_token }}<|START_RESPONSE|>"}
    assert Prompts(TOKENIZER, sources).renderer.family == "cmd3"
