"""Prompts have the bytes of those that transformers and Cohere's own programs write."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

import data
import oracles
import tiny_tokenizer
from commandr_gguf import Tokenizer
from commandr_gguf.chat.command_a import command_a_data, render_command_a
from commandr_gguf.chat.multi_step import multi_step_data, render_multi_step
from commandr_gguf.chat.request import make_request
from golden.prompts import cases
from golden.prompts.write import FOLDER, summary
from prompt_files import Prompts

BOS = "<BOS_TOKEN>"
DATE = "Saturday, March 30, 2024 13:20:40"
COMMAND_R = cases.command_r()


@functools.cache
def golden(kind: str) -> dict[str, Any]:
    prompts: dict[str, Any] = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))["prompts"]
    return prompts


@functools.cache
def command_r_plus() -> Prompts:
    config = json.loads((data.real_tokenizer_dir() / "tokenizer_config.json").read_text(encoding="utf-8"))
    templates = {entry["name"]: entry["template"] for entry in config["chat_template"]}
    return Prompts(Tokenizer.from_gguf(data.llama_cpp_vocab()), templates)


@functools.cache
def reference_tokenizer() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(data.real_tokenizer_dir() / "tokenizer.json"))


def test_the_files_have_every_case() -> None:
    assert golden("command_r_plus").keys() == COMMAND_R.keys()
    assert golden("multi_step").keys() == cases.multi_step().keys()
    assert golden("command_r7b").keys() == cases.command_r7b().keys()
    assert len({entry["sha256"] for entry in golden("command_r_plus").values()}) == len(COMMAND_R)


@pytest.mark.data
@pytest.mark.parametrize("name", COMMAND_R)
def test_prompts_of_command_r_plus_are_those_of_transformers(name: str) -> None:
    prompt = command_r_plus()(**COMMAND_R[name])
    assert summary(prompt.text) == golden("command_r_plus")[name]
    assert prompt.tokens == reference_tokenizer().encode(prompt.text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", cases.multi_step())
def test_multi_step_prompts_are_those_of_langchain_cohere(name: str) -> None:
    request = make_request(**cases.multi_step()[name], multi_step=True)
    assert request.tools is not None
    values = multi_step_data(request.messages, request.tools, DATE)
    assert summary(render_multi_step(values, bos_token=BOS)) == golden("multi_step")[name]


@pytest.mark.parametrize("name", cases.command_r7b())
def test_prompts_of_command_r7b_are_those_of_its_published_template(name: str) -> None:
    options = dict(cases.command_r7b()[name])
    end = options.pop("add_generation_prompt", True)
    request = make_request(**options, family="cmd3")
    values = command_a_data(request.messages, request.documents or [], request.tools or [])
    text = render_command_a(values, "cmd3", add_generation_prompt=end, bos_token=BOS)
    assert summary(text) == golden("command_r7b")[name]


@pytest.mark.data
@pytest.mark.oracle
def test_the_bytes_are_those_of_transformers(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    oracles.run(oracles.WORKERS / "prompts_worker.py", data.real_tokenizer_dir(), out)
    expected = json.loads(out.read_text(encoding="utf-8"))["prompts"]
    assert expected.keys() == COMMAND_R.keys()
    for name, text in expected.items():
        assert command_r_plus()(**COMMAND_R[name]).text.encode() == text.encode(), name


@pytest.mark.oracle
def test_the_bytes_of_our_own_templates_are_those_of_transformers(tmp_path: Path) -> None:
    tiny_tokenizer.write_tokenizer(tmp_path)
    out = tmp_path / "out.json"
    oracles.run(oracles.WORKERS / "prompts_worker.py", tmp_path, out)
    tokens = [*tiny_tokenizer.vocabulary(), *tiny_tokenizer.TURN_TOKENS]
    prompts = Prompts(Tokenizer(tokens, tiny_tokenizer.merges(), bos_id=5), tiny_tokenizer.CHAT_TEMPLATES)
    for name, text in json.loads(out.read_text(encoding="utf-8"))["prompts"].items():
        assert prompts(**COMMAND_R[name]).text.encode() == text.encode(), name
