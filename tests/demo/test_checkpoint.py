"""The embedded checkpoint is a small Command-R checkpoint in the layout of Hugging Face, whole and in proportion."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer as Reference

import embedded
import shapes
from commandr_gguf import GGUFFile, Tokenizer
from commandr_gguf.demo.data.example import TASKS
from commandr_gguf.demo.data.source import Prompts, Source
from commandr_gguf.demo.embedded import CHECKPOINT
from commandr_gguf.demo.templates import CHAT_TEMPLATES
from commandr_gguf.demo.tokenizer import TURN_TOKENS, VOCAB_SIZE, turn_token_id

MEGABYTE = 1_000_000


def read(name: str) -> Any:
    return json.loads((CHECKPOINT / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def converted() -> Path:
    """The file of type Q8_0; without a checkpoint all tests are skipped."""
    return embedded.path("Q8_0")


def test_the_folder_is_small_and_holds_nothing_else() -> None:
    files = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    assert files.keys() == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= 24 * MEGABYTE


def test_the_configuration_is_that_of_a_command_r_model() -> None:
    config = read("config.json")
    assert config["architectures"] == ["CohereForCausalLM"]
    assert config["model_type"] == "cohere"
    assert config["torch_dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    assert config["use_qk_norm"] is False
    assert config["vocab_size"] == VOCAB_SIZE
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0  # K-quants apply to every row
    heads, heads_kv = config["num_attention_heads"], config["num_key_value_heads"]
    assert heads_kv < heads
    assert heads % heads_kv == config["hidden_size"] % heads == 0
    end = turn_token_id("<|END_OF_TURN_TOKEN|>")
    ids = {"bos_token_id": 5, "eos_token_id": end, "pad_token_id": 0}
    assert {key: config[key] for key in ids} == ids
    assert {key: read("generation_config.json")[key] for key in ids} == ids


def test_the_tensors_are_all_there_in_bf16_and_finite() -> None:
    expected = shapes.tensor_shapes(read("config.json"))
    with safe_open(CHECKPOINT / "model.safetensors", "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        assert {name: tuple(part.get_shape()) for name, part in slices.items()} == expected
        assert {part.get_dtype() for part in slices.values()} == {"BF16"}
    content = (CHECKPOINT / "model.safetensors").read_bytes()
    weights = np.frombuffer(content, "<u2", offset=8 + int.from_bytes(content[:8], "little"))
    assert len(weights) == sum(math.prod(shape) for shape in expected.values())
    assert ((weights & 0x7F80) != 0x7F80).all()  # all bits of the exponent: infinite or no number


def test_the_three_templates_are_those_of_the_training() -> None:
    found = {entry["name"]: entry["template"] for entry in read("tokenizer_config.json")["chat_template"]}
    assert found == CHAT_TEMPLATES
    assert found.keys() == {"default", "tool_use", "rag"}


def test_control_tokens_have_the_ids_of_the_training(converted: Path) -> None:
    reference = Reference.from_file(str(CHECKPOINT / "tokenizer.json"))
    with GGUFFile(converted) as file:
        ours = Tokenizer.from_gguf(file)
    for token in TURN_TOKENS:
        assert reference.token_to_id(token) == turn_token_id(token)
        assert ours.encode(token, parse_special=True) == [turn_token_id(token)]
    assert len(ours) == VOCAB_SIZE


def test_prompts_are_the_tokens_of_the_training(converted: Path) -> None:
    reference = Reference.from_file(str(CHECKPOINT / "tokenizer.json"))
    prompts = Prompts(CHAT_TEMPLATES)
    with GGUFFile(converted) as file:
        ours = Tokenizer.from_gguf(file)
    for task in TASKS:
        for example in Source("test", 3).examples(task, 30):
            text = prompts.render(example)
            assert ours.encode(text, parse_special=True) == reference.encode(text, add_special_tokens=False).ids
