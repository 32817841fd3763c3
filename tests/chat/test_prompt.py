"""Templates render as transformers renders them, in a sandbox."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest

import models
import tiny_tokenizer
from commandr_gguf import ArgumentError, ChatTemplate, FormatError, GGUFFile, UnsupportedError

USER = [{"role": "user", "content": " Hello "}]


def render(source: str, **variables: Any) -> str:
    return ChatTemplate(source).render(USER, **variables)


def test_templates_are_read_from_the_file() -> None:
    with GGUFFile(models.gguf("gqa")) as file:
        for name, source in tiny_tokenizer.CHAT_TEMPLATES.items():
            assert ChatTemplate.from_gguf(file, name).source == source
        with pytest.raises(UnsupportedError, match="no chat template 'other'.*tokenizer.chat_template.other"):
            ChatTemplate.from_gguf(file, "other")


def test_a_conversation() -> None:
    template = ChatTemplate(tiny_tokenizer.CHAT_TEMPLATES["default"])
    messages = [{"role": "system", "content": "Be brief."}, *USER, {"role": "assistant", "content": "Hi."}]
    text = (
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hello<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hi.<|END_OF_TURN_TOKEN|>"
    )
    assert template.render(messages, add_generation_prompt=False, bos_token="<BOS_TOKEN>") == text
    generated = template.render(messages, bos_token="<BOS_TOKEN>")
    assert generated == text + "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"


def test_white_space_of_blocks_is_trimmed() -> None:
    assert (
        render("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n")
        == " Hello \n"
    )


def test_tojson_keeps_text_as_it_is() -> None:
    assert render("{{ x | tojson }}", x={"b": "<é>'", "a": [1]}) == '{"b": "<é>\'", "a": [1]}'
    assert render("{{ x | tojson(indent=2, sort_keys=true) }}", x={"b": 1, "a": 2}) == '{\n  "a": 2,\n  "b": 1\n}'
    assert render("{{ x | tojson(ensure_ascii=true) }}", x="é") == '"\\u00e9"'


def test_functions_and_extensions() -> None:
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().astimezone().year)
    assert render("{% for i in range(9) %}{% if i > 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "012"
    assert render("a{% generation %}b{{ messages[0].role }}{% endgeneration %}c") == "abuserc"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{{ raise_exception('roles must alternate') }}",
            "'default' does not take these messages: roles must alternate",
        ),
        ("{{ messages[3].content + 1 }}", "does not take these messages"),
        ("{{ messages[0].content + 1 }}", "does not take these messages"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safely callable"),
        ("{% for i in range(1000000) %}{% endfor %}", "Range too big"),
        ("{{ 1 / 0 }}", "division"),
    ],
)
def test_what_a_template_may_not_do_is_an_error(source: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        render(source)


def test_a_source_that_is_no_template_is_refused() -> None:
    with pytest.raises(FormatError, match=re.escape("'default' is not valid")):
        ChatTemplate("{% if %}")
