from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader, GGUFValueType

import measure
import models
import oracles
import shapes
import tiny_tokenizer
from commandr_gguf.model import Model
from commandr_gguf.session import Session
from convert.errors import CheckpointError
from convert.hf_model import checkpoint_name, read_hf_model
from convert.metadata import Keys
from convert.pipeline import write_plan
from convert.plan import make_plan
from convert.recipe import file_type

CARD = """\
---
license: cc-by-nc-4.0
language:
- en
- fr
- no
base_model: Somebody/some-model-v2
tags: [chat]
---
# A model
"""


def keys_of(folder: Path, recipe: str = "Q8_0") -> Keys:
    return make_plan(read_hf_model(folder), file_type(recipe)).keys


def values_of(folder: Path, recipe: str = "Q8_0") -> dict[str, Any]:
    return {name: value.value for name, value in keys_of(folder, recipe).items()}


def test_every_key_of_command_r(tmp_path: Path) -> None:
    folder = shapes.write_checkpoint(tmp_path / "some-model-8B", "gqa", n_layers=1)
    values = values_of(folder)
    templates = tiny_tokenizer.CHAT_TEMPLATES
    assert next(iter(values)) == "general.architecture"
    big = {name: values.pop(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges")}
    assert [len(big["tokens"]), len(big["token_type"])] == [tiny_tokenizer.VOCAB_SIZE] * 2
    general = {name: values.pop(name) for name in list(values) if name.startswith("general.")}
    assert (
        general.items()
        >= {
            "general.architecture": "command-r",
            "general.type": "model",
            "general.name": "Some Model 8B",
            "general.file_type": 7,
            "general.quantization_version": 2,
        }.items()
    )
    assert values.pop("commandr.convert.version")
    assert values == {
        "command-r.block_count": 1,
        "command-r.context_length": 131072,
        "command-r.embedding_length": 256,
        "command-r.feed_forward_length": 512,
        "command-r.attention.head_count": 8,
        "command-r.attention.head_count_kv": 2,
        "command-r.attention.layer_norm_epsilon": 1e-5,
        "command-r.rope.freq_base": 40000.0,
        "command-r.rope.scaling.type": "none",
        "command-r.logit_scale": 0.0625,
        "command-r.vocab_size": tiny_tokenizer.VOCAB_SIZE,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "command-r",
        "tokenizer.ggml.bos_token_id": 5,
        "tokenizer.ggml.eos_token_id": tiny_tokenizer.turn_token_id("<|END_OF_TURN_TOKEN|>"),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": templates["default"],
        "tokenizer.chat_template.tool_use": templates["tool_use"],
        "tokenizer.chat_template.rag": templates["rag"],
        "tokenizer.chat_templates": ["tool_use", "rag"],
        "commandr.convert.source": "some-model-8B",
        "commandr.convert.type": "Q8_0",
    }


def test_keys_of_cohere2(tmp_path: Path) -> None:
    values = values_of(shapes.write_checkpoint(tmp_path / "a", "cohere2", n_layers=4))
    assert {name: value for name, value in values.items() if name.startswith("cohere2.")} == {
        "cohere2.block_count": 4,
        "cohere2.context_length": 131072,
        "cohere2.embedding_length": 256,
        "cohere2.feed_forward_length": 512,
        "cohere2.attention.head_count": 4,
        "cohere2.attention.head_count_kv": 2,
        "cohere2.attention.layer_norm_epsilon": 1e-5,
        "cohere2.attention.key_length": 64,
        "cohere2.attention.value_length": 64,
        "cohere2.attention.sliding_window": 20,
        "cohere2.rope.dimension_count": 64,
        "cohere2.rope.freq_base": 5000.0,
        "cohere2.rope.scaling.type": "none",
        "cohere2.logit_scale": 0.25,
        "cohere2.vocab_size": tiny_tokenizer.VOCAB_SIZE,
    }
    other = shapes.write_checkpoint(tmp_path / "b", "cohere2", n_layers=4, sliding_window_pattern=2, layer_switch=2)
    assert values_of(other)["cohere2.attention.sliding_window_pattern"] == 2


def test_model_card(tmp_path: Path) -> None:
    folder = shapes.write_checkpoint(tmp_path / "m", "gqa", n_layers=1)
    (folder / "README.md").write_text(CARD)
    values = values_of(folder)
    assert values["general.license"] == "cc-by-nc-4.0"
    assert values["general.languages"] == ["en", "fr", "no"]  # not false
    assert values["general.tags"] == ["chat"]
    assert values["general.base_model.0.organization"] == "Somebody"
    assert values["general.size_label"] == "754K"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("---\nlicense: [unclosed\n---\n", "front matter is not that of a model card"),
        ("---\nbase_model: 5\n---\n", None),
        ("---\nname: 4\nversion: 1.5\nlanguage: [1, 2]\n---\n", None),
        ("no front matter", None),
        ("", None),
    ],
)
def test_odd_model_cards(tmp_path: Path, text: str, message: str | None) -> None:
    folder = shapes.write_checkpoint(tmp_path / "m", "gqa", n_layers=1)
    (folder / "README.md").write_text(text)
    if message is None:
        write_plan(make_plan(read_hf_model(folder), file_type("Q8_0")), tmp_path / "x.gguf")
        assert GGUFReader(tmp_path / "x.gguf").fields["general.name"].types == [GGUFValueType.STRING]
    else:
        with pytest.raises(CheckpointError, match=message) as caught:
            read_hf_model(folder)
        assert "README.md" in str(caught.value)


def test_sampling_of_the_generation_config(tmp_path: Path) -> None:
    folder = shapes.write_checkpoint(tmp_path / "m", "gqa", n_layers=1)
    (folder / "generation_config.json").write_text('{"temperature": 0.3, "top_k": 40}')
    values = values_of(folder)
    assert (values["general.sampling.temp"], values["general.sampling.top_k"]) == (0.3, 40)
    (folder / "generation_config.json").write_text('{"temperature": "warm"}')
    with pytest.raises(CheckpointError, match=r"general.sampling.temp the value 'warm'"):
        keys_of(folder)


def test_name_of_a_download(tmp_path: Path) -> None:
    folder = tmp_path / "models--CohereForAI--c4ai-command-r-v01" / "snapshots" / "9fe64d67d13873f218cb05083b6fc2faab2d"
    assert checkpoint_name(shapes.write_checkpoint(folder, "gqa", n_layers=1)) == (
        "c4ai-command-r-v01",
        "CohereForAI/c4ai-command-r-v01",
        "9fe64d67d13873f218cb05083b6fc2faab2d",
    )
    values = values_of(folder)
    assert values["general.name"] == "C4Ai Command R v01"
    assert values["general.source.huggingface.repository"] == "CohereForAI/c4ai-command-r-v01"
    assert [name for name, value in values.items() if "9fe64d67" in str(value)] == ["commandr.convert.revision"]


def test_name_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path / "my-model")
    assert checkpoint_name(Path()) == ("my-model", None, None)


def test_checkpoint_without_templates(tmp_path: Path) -> None:
    folder = shapes.write_checkpoint(tmp_path / "m", "gqa", n_layers=1, transformers=5)
    (folder / "chat_template.jinja").unlink()
    for path in (folder / "additional_chat_templates").iterdir():
        path.unlink()
    assert not any("chat_template" in name for name in keys_of(folder))


@pytest.mark.oracle
@pytest.mark.parametrize("period", [3, 9])  # llama.cpp aborts on 1, a model without any window
def test_llama_cpp_reads_other_window_periods(tmp_path: Path, period: int) -> None:
    folder = shapes.write_checkpoint(tmp_path / "c", "cohere2", sliding_window_pattern=period, layer_switch=period)
    file = models.convert(folder, tmp_path / "x.gguf", "F32")
    tokens = models.golden("cohere2")["tokens_a"]
    logits = oracles.llama_cpp(file, tokens, tmp_path, type_kv=0)["logits"]
    with Model(file) as model, Session(model, n_ctx=len(tokens), type_k="f32", type_v="f32") as session:
        session.eval(tokens, n_outputs=len(tokens))
        measure.assert_same(session.logits(), logits)
    default = oracles.llama_cpp(models.gguf("cohere2"), tokens, tmp_path, type_kv=0)["logits"]
    assert measure.relative_error(logits, default) > 0.1  # the key matters
