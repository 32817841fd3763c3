"""Replies of models whose prompts and replies are those of Command R7B and Command A, with random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import models
import shapes
import tiny_tokenizer
from commandr_gguf import CommandR, Plan, Reply, ReplyStream, Text
from commandr_gguf.chat.grammars import json_schema_grammar
from commandr_gguf.chat.prompt import ChatTemplate
from commandr_gguf.constraint import Constraint
from scripted import Pieces

HELLO = [{"role": "user", "content": "Hello"}]
PICK = {
    "name": "pick",
    "description": "Picks a color.",
    "parameters": {"type": "object", "properties": {"color": {"enum": ["red", "green"]}}, "required": ["color"]},
}
MARKS = ("THINKING", "ACTION", "TEXT", "RESPONSE", "TOOL_RESULT")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|><|USER_TOKEN|><|START_TEXT|>"
    "{{ message['content'] }}<|END_TEXT|><|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|>{% endif %}"
)


def write(folder: Path, mark: str) -> Path:
    """A checkpoint with the marks of the format whose answers stand within `mark`."""
    checkpoint = shapes.write_checkpoint(folder, "cohere2", n_layers=1)
    spare = [token for token in tiny_tokenizer.TURN_TOKENS if re.search(r"USER_\d|EXTRA_\d", token)]
    names = [f"<|{side}_{name}|>" for name in MARKS for side in ("START", "END")]
    for path in (checkpoint / "tokenizer.json", checkpoint / "tokenizer_config.json"):
        text = path.read_text(encoding="utf-8")
        for old, new in zip(spare, names, strict=False):
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    for path in checkpoint.rglob("*.jinja"):
        path.unlink()
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE.replace("TEXT", mark), encoding="utf-8")
    return models.convert(checkpoint, folder.with_suffix(".gguf"), "F32")


@pytest.fixture(scope="module", params=["RESPONSE", "TEXT"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandR]:
    path = write(tmp_path_factory.mktemp("later") / "model", request.param)
    with CommandR(path, n_ctx=8192, n_threads=1) as opened:
        yield opened


def is_cmd4(model: CommandR) -> bool:
    return "<|START_TEXT|>" in model.template().source


def allowed(model: CommandR, monkeypatch: pytest.MonkeyPatch, reply: str, **options: Any) -> bool:
    """Whether the constraint of a request lets the model write this reply."""
    given: list[Constraint] = []

    def generate(*_: Any, constraint: Constraint, **__: Any) -> Pieces:
        given.append(constraint)
        return Pieces("")

    with monkeypatch.context() as patch:
        patch.setattr("commandr_gguf.chat_engine.generate", generate)
        model.chat(HELLO, stream=True, **options)
    tokens = model.tokenizer.encode(reply, parse_special=True)
    return given[0].count_allowed(tokens) == len(tokens)


def answer(model: CommandR, text: str) -> str:
    name = "TEXT" if is_cmd4(model) else "RESPONSE"
    return f"<|START_{name}|>{text}<|END_{name}|>"


def test_citations_name_what_there_is(model: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ["The lighthouse is old.", "The harbor is new."]
    for number, is_there in ((0, True), (1, True), (2, False)):
        reply = answer(model, f"It is <co>old</co: 0:[{number}]>.")
        assert allowed(model, monkeypatch, reply, documents=documents) == is_there
    assert not allowed(model, monkeypatch, "It is old.", documents=documents)


def test_calls_are_of_what_is_offered(model: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "pick", "parameters": {"color": "red"}}]<|END_ACTION|>'
    assert allowed(model, monkeypatch, call, tools=[PICK])
    for old, new in (("pick", "pack"), ("red", "blue"), ("color", "size"), ('{"color": "red"}', "{}")):
        assert not allowed(model, monkeypatch, call.replace(old, new), tools=[PICK])


def test_thoughts_and_citations_can_be_switched_off(model: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    cited = answer(model, "<co>a</co: 0:[0]>")
    thought = "<|START_THINKING|>I see.<|END_THINKING|>" + answer(model, "a")
    for reply, switch in ((cited, {"citation_mode": "off"}), (thought, {"reasoning": False})):
        assert allowed(model, monkeypatch, reply, documents=["a"])
        assert not allowed(model, monkeypatch, reply, documents=["a"], **switch)


def test_an_answer_keeps_to_a_grammar(model: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "properties": {"a}": {"enum": ["{", "}}"]}}, "required": ["a}"]}
    options: dict[str, Any] = {"grammar": json_schema_grammar(schema)}
    right, wrong = answer(model, '{"a}": "}}"}'), answer(model, '{"a}": "x"}')
    thought, call = "I see.<|END_THINKING|>", '<|START_ACTION|>[{"tool_name": "pick", "parameters": {"color": "red"}}]'
    plain: dict[str, Any] = {"reasoning": True}  # in the prompt without a switch thoughts have begun
    for beginning, more in (
        (thought, {}),
        ("", plain),
        ("<|START_THINKING|>" + thought, plain),
        ("", {"documents": ["a"]}),
        ("", {"tools": [PICK]}),
        ("", {"constrained": False, "documents": ["a"]}),
    ):
        assert allowed(model, monkeypatch, beginning + right, **options, **more), more
        assert not allowed(model, monkeypatch, beginning + wrong, **options, **more), more
    assert not allowed(model, monkeypatch, right, **options)
    assert not allowed(model, monkeypatch, answer(model, "<co>a</co: 0:[0]>"), documents=["a"], **options)
    assert allowed(model, monkeypatch, call, tools=[PICK], **options)
    assert not allowed(model, monkeypatch, call, **plain, **options)
    assert not allowed(model, monkeypatch, right, tools=[PICK], require_tool=True, **options)


def test_a_reply_in_json_is_the_reply_s_text(model: CommandR) -> None:
    grammar = json_schema_grammar({"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]})
    reply = model.chat(HELLO, grammar=grammar, reasoning=False, temperature=1, seed=1, max_tokens=100)
    assert json.loads(reply.text) == {"n": 7}
    assert reply.finish_reason == "stop"


def test_an_answer_within_the_mark_of_the_prompt_keeps_to_a_grammar(
    model: CommandR, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TEXT" if is_cmd4(model) else "RESPONSE"
    source = model.template().source.replace("<|START_THINKING|>", f"<|START_{name}|>")
    monkeypatch.setitem(model._chat.prompts._templates, "default", ChatTemplate(source))
    grammar = json_schema_grammar({"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]})
    assert allowed(model, monkeypatch, f'{{"n": 7}}<|END_{name}|>', grammar=grammar)
    assert not allowed(model, monkeypatch, f'{{"n": 8}}<|END_{name}|>', grammar=grammar)


def test_replies_of_random_weights_keep_to_the_form(model: CommandR) -> None:
    options: dict[str, Any] = {"documents": ["a"], "tools": [PICK], "temperature": 1, "max_tokens": 50, "seed": 1}
    assert re.match(r"<\|START_(THINKING|ACTION|RESPONSE|TEXT)\|>", model.chat(HELLO, **options).raw_text)
    assert not model.chat(HELLO, constrained=False, **options).raw_text.startswith("<|START_")


def test_thoughts_that_the_prompt_begins_are_no_text(model: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model.render(HELLO).endswith("<|START_THINKING|>")
    mark = "TEXT" if is_cmd4(model) else "RESPONSE"
    text = f"A greeting.<|END_THINKING|><|START_{mark}|>Hello you<|END_{mark}|>"
    monkeypatch.setattr("commandr_gguf.chat_engine.generate", lambda *_, **__: Pieces(text))
    stream = model.chat(HELLO, stream=True)
    assert isinstance(stream, ReplyStream)
    events = list(stream)
    assert "".join(event.text for event in events if isinstance(event, Plan)) == "A greeting."
    assert "".join(event.text for event in events if isinstance(event, Text)) == "Hello you"
    reply: Reply = stream.reply
    assert (reply.plan, reply.text) == ("A greeting.", "Hello you")


def test_switches_change_the_prompt(model: CommandR) -> None:
    plain = model.render(HELLO)
    switched = model.render(HELLO, reasoning=False)
    assert switched != plain
    assert switched.endswith("<|CHATBOT_TOKEN|>" + "<|START_THINKING|><|END_THINKING|>" * is_cmd4(model))
    with_citations, without = (model.render(HELLO, ["a"], citation_mode=mode) for mode in ("fast", "off"))
    assert with_citations != without
