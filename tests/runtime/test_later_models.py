"""Replies of models whose prompts and replies are those of Command R7B and Command A, with random weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import models
import shapes
import tiny_tokenizer
from commandr_gguf import CommandR, Plan, Reply, ReplyStream, Text
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


@pytest.mark.parametrize("seed", range(3))
def test_a_constrained_model_keeps_to_the_form(model: CommandR, seed: int) -> None:
    documents = ["The lighthouse is old.", "The harbor is new."]
    options: dict[str, Any] = {"documents": documents, "tools": [PICK], "temperature": 1, "max_tokens": 150}
    reply = model.chat(HELLO, seed=seed, **options)
    assert re.match(r"<\|START_(THINKING|ACTION|RESPONSE|TEXT)\|>", reply.raw_text)
    assert all(call.name == "pick" and call.parameters["color"] in ("red", "green") for call in reply.tool_calls)
    cited = {int(n) for tag in re.findall(r"</co: 0:\[([0-9,]*)\]>", reply.raw_text) for n in tag.split(",")}
    assert cited <= {0, 1}
    assert "<|START_" not in model.chat(HELLO, seed=seed, constrained=False, **options).raw_text[:9]


def test_a_constrained_model_calls_what_is_offered(model: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    """Led to calls, it can make no others."""
    call = '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "pi'
    start = model.tokenizer.encode(call, parse_special=True)
    bias = dict.fromkeys(start, 50.0)
    reply = model.chat(HELLO, tools=[PICK], temperature=0, max_tokens=200, logit_bias=bias)
    for call_ in reply.tool_calls:
        assert (call_.name, set(call_.parameters)) == ("pick", {"color"})
    assert reply.tool_calls or reply.finish_reason == "length"


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
    reply = model.chat(HELLO, documents=["a"], citation_mode="off", temperature=1, max_tokens=100, seed=1)
    assert "<co>" not in reply.raw_text
    assert not reply.citations
