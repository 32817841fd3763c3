"""The embedded model and the network that it was trained as, beside transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import embedded
import measure
import oracles
from commandr_gguf import CommandR
from commandr_gguf.demo.data.example import TASKS
from commandr_gguf.demo.embedded import CHECKPOINT
from commandr_gguf.demo.evaluate import held_out, request

pytestmark = pytest.mark.oracle

N_PROMPTS = 4
MAX_TOKENS = 160


def test_prompts_and_greedy_replies_are_those_of_transformers(tmp_path: Path) -> None:
    path = embedded.path("F32")
    requests = [request(example) for task in TASKS for example in held_out(task, N_PROMPTS, 21)]
    templates = ["rag" if "documents" in asked else "tool_use" if "tools" in asked else "default" for asked in requests]
    asked_of_transformers = [
        {"template": template, "max_tokens": MAX_TOKENS, **asked}
        for template, asked in zip(templates, requests, strict=True)
    ]
    (tmp_path / "requests.json").write_text(json.dumps(asked_of_transformers))
    oracles.run(oracles.WORKERS / "demo_worker.py", CHECKPOINT, tmp_path / "requests.json", tmp_path / "out.json")
    answers: list[dict[str, Any]] = json.loads((tmp_path / "out.json").read_text())
    assert len(answers) == len(requests) == N_PROMPTS * len(TASKS)
    with CommandR(path, type_k="f32", type_v="f32") as model:
        for asked, answer in zip(requests, answers, strict=True):
            prompt = model.prompt(**asked)
            assert prompt.text == answer["prompt"]
            assert list(prompt.tokens) == answer["tokens"]
            reply = model.generate(prompt.tokens, temperature=0, max_tokens=MAX_TOKENS, speculate=False)
            assert reply.tokens == answer["reply"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What network_worker.py computes."""
    folder = tmp_path_factory.mktemp("network")
    oracles.run(oracles.WORKERS / "network_worker.py", folder / "checkpoint", folder / "out.npz")
    with np.load(folder / "out.npz") as arrays:
        return dict(arrays)


def test_the_checkpoint_computes_what_the_network_was_trained_to(network: dict[str, Any]) -> None:
    trained, loaded = network["trained"], network["loaded"]
    assert trained.shape == loaded.shape == (2, 40, 4096)
    assert np.abs(loaded).max() > 0.1
    measure.assert_same(trained.reshape(80, -1), loaded.reshape(80, -1))


def test_a_network_takes_back_the_weights_that_were_saved(network: dict[str, Any]) -> None:
    np.testing.assert_array_equal(network["taken_back"], network["trained"])


def test_an_untrained_network_begins_with_copying(network: dict[str, Any]) -> None:
    assert network["begins_with_copying"] > 0.5
    assert network["begins_at_random"] < 0.05
