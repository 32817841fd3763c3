"""The prompts of Command R7B and Command A."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from commandr_gguf import ArgumentError
from commandr_gguf.chat.command_a import family_of, melody_messages, render_command_a
from commandr_gguf.chat.messages import normalize
from commandr_gguf.chat.request import make_request

SCHEMA = {"type": "object", "properties": {"z": {"type": "string", "enum": ["é"]}, "a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "find", "description": 'Finds "it".', "parameters": SCHEMA}}
ASK = [{"role": "user", "content": "Who?"}]
ROUND: list[dict[str, Any]] = [
    {
        "role": "assistant",
        "tool_plan": "Look.",
        "tool_calls": [{"id": "x", "name": "find", "parameters": {"z": "é", "a": 1}}, {"id": "y", "name": "find"}],
    },
    {"role": "tool", "tool_call_id": "x", "content": [{"id": "d7", "data": {"n": 1.5}}, {"k": [True, None]}]},
    {"role": "tool", "tool_call_id": "y", "content": "text"},
]


def render(family: Any, messages: Any, **options: Any) -> str:
    request = make_request(messages, family=family, **options)
    assert request.template == family
    return render_command_a(request.data, family, bos_token="<BOS_TOKEN>")


@pytest.mark.parametrize(
    ("templates", "family"),
    [
        ([], "command-r"),
        (["<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{{ x }}"], "command-r"),
        (["x", "<|START_RESPONSE|>{{ x }}<|END_RESPONSE|>"], "cmd3"),
        (["<|START_THINKING|>a<|START_TEXT|>{{ x }}<|END_TEXT|>"], "cmd4"),
        (["<|START_TEXT|>{{ x }}<cofl:tool_calls>"], "cmd5"),
    ],
)
def test_the_family_is_told_by_marks_in_the_templates(templates: list[str], family: str) -> None:
    assert family_of(templates) == family


@pytest.mark.parametrize("family", ["cmd3", "cmd4"])
def test_a_prompt_has_the_marks_of_its_family(family: Any) -> None:
    text = render(family, [*ASK, {"role": "assistant", "content": "He."}, *ASK], documents=["d"])
    assert family_of([text]) == family
    assert text.startswith("<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>")
    assert text.endswith("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>")


@pytest.mark.parametrize("family", ["cmd3", "cmd4"])
def test_tools_are_shown_with_their_schemas(family: Any) -> None:
    text = render(family, ASK, tools=[TOOL])
    (line,) = re.findall(r'^    (\{"name": "find".*\})$', text, re.MULTILINE)
    shown = json.loads(line)
    assert shown == {
        "name": "find",
        "description": 'Finds "it".',
        "parameters": {**SCHEMA, "required": []},
        "responses": None,
    }
    assert list(shown["parameters"]["properties"]) == ["z", "a"]
    assert '"<co>" and "</co>"' in text  # citations are asked for


@pytest.mark.parametrize("family", ["cmd3", "cmd4"])
@pytest.mark.parametrize("documents", [None, [{"id": "own-id", "data": {"title": "é"}}]])
def test_calls_and_results_have_the_numbers_that_citations_use(family: Any, documents: Any) -> None:
    text = render(family, [*ASK, *ROUND, *ROUND], tools=[TOOL], documents=documents)
    first = 0 if documents is None else 1
    calls = [int(n) for n in re.findall(r'"tool_call_id": "(\d+)", "tool_name": "find"', text)]
    results = [int(n) for n in re.findall(r'"tool_call_id": "(\d+)",\n', text)]
    assert calls == list(range(first, first + 4))
    assert results == list(range(first + 4))
    assert text.count('"0": {"n": 1.5},') == 2
    assert text.count('"1": {"k": [true, null]}') == 2
    assert text.count('"0": {"content": "text"}') == 2
    assert text.count("<|START_THINKING|>Look.<|END_THINKING|>") == 2
    assert '"parameters": {"z": "é", "a": 1}' in text
    assert "d7" not in text
    assert "own-id" not in text
    assert ('"0": {"title": "é"}' in text) == (documents is not None)


def test_ids_of_results_are_for_the_parser() -> None:
    messages = melody_messages(normalize([*ASK, *ROUND]), ids=True)
    assert messages[2]["content"][0]["document"] == {"id": "d7", "n": 1.5}
    assert messages[2]["content"][1]["document"] == {"id": "x:1", "k": [True, None]}


def test_the_first_system_message_of_cmd3_is_the_developers_preamble() -> None:
    system = {"role": "system", "content": "Be brief."}
    text = render("cmd3", [system, *ASK, system], tools=[TOOL])
    assert "# Developer Preamble\n" in text
    assert text.count("Be brief.") == 2
    assert text.count("<|SYSTEM_TOKEN|>Be brief.") == 1
    assert render("cmd4", [system, *ASK], tools=[TOOL]).count("<|START_TEXT|>Be brief.<|END_TEXT|>") == 1


@pytest.mark.parametrize("family", ["cmd3", "cmd4"])
def test_a_prompt_without_an_open_turn(family: Any) -> None:
    request = make_request(ASK, tools=[TOOL], family=family)
    text = render_command_a(request.data, family, add_generation_prompt=False)
    assert text + "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>" == render_command_a(request.data, family)
    assert text.endswith("<|END_OF_TURN_TOKEN|>")
    assert text.startswith("<|START_OF_TURN_TOKEN|>")  # no begin token was given


@pytest.mark.parametrize("family", ["cmd3", "cmd4"])
@pytest.mark.parametrize("content", ["", [], "\n {{ x }} {% y %} \u2028 "])
def test_contents_of_every_kind(family: Any, content: Any) -> None:
    turn = {"role": "assistant", "content": content}
    text = render(family, [*ASK, turn, *ASK], tools=[TOOL])
    assert content == [] or content in text


@pytest.mark.parametrize("family", ["cmd3", "cmd4"])
def test_what_melody_does_not_take(family: Any) -> None:
    call = {"name": "find", "parameters": {"n": 10**400}}
    with pytest.raises(ArgumentError, match=f"the prompt of kind {family} cannot be rendered: .*number out of range"):
        render(family, [*ASK, {"role": "assistant", "tool_calls": [call]}])
