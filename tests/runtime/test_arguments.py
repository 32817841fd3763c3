"""Arguments of the wrong kind: one sentence that names them, and numpy's integers are taken."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from commandr_gguf import ArgumentError, CommandR, Model, SamplingParams, Session
from commandr_gguf.call_options import ChatOptions, GenerateOptions


@pytest.fixture(scope="module")
def model() -> Iterator[CommandR]:
    with CommandR(models.gguf("gqa"), n_ctx=256) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 2.5),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("temperature", None),
        ("temperature", "x"),
        ("temperature", 1e300),
        ("temperature", 10**400),
        ("top_k", 2.5),
        ("seed", "x"),
        ("seed", 2**64 - 1),
        ("stop", None),
        ("stop", 5),
        ("stop", b"ab"),
        ("top_logprobs", "1"),
        ("logit_bias", {5: "1"}),
        ("logit_bias", {"5": 1}),
        ("logit_bias", [5]),
    ],
)
def test_generate_names_the_argument(model: CommandR, name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must"):
        model.generate("a", **{"max_tokens": 1, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type_k", None),
        ("type_k", "q9"),
        ("flash_attn", "x"),
        ("n_ctx", "a"),
        ("n_ctx", 2.5),
        ("n_ubatch", "a"),
        ("use_mmap", "x"),
        ("tensor_split", "ab"),
        ("tensor_split", 1),
    ],
)
def test_the_constructor_names_the_argument(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^{name} must"):
        CommandR(models.gguf("gqa"), **{"n_ctx": 256, name: value})


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.session.seq_rm(2**40),
        lambda m: m.session.seq_rm(0, "a"),
        lambda m: m.session.seq_cp(0, 2**40),
        lambda m: m.session.save_state("x", 1 << 40),
        lambda m: m.session.eval([5], n_outputs=2**70),
        lambda m: m.session.eval(b"ab"),
        lambda m: m.session.logits("0"),
        lambda m: m.embed(5),
        lambda m: m.logits("ab"),
        lambda m: m.logits([1.5]),
        lambda m: m.detokenize("abc"),
        lambda m: m.detokenize(["a"]),
        lambda m: m.detokenize(5),
        lambda m: m.tokenize(b"a"),
        lambda m: m.tokenize(None),
        lambda m: m.generate(b"ab"),
        lambda m: m.generate([1.5]),
        lambda m: Model(""),
        lambda m: CommandR(""),
        lambda m: Model(None),  # type: ignore[arg-type]
    ],
)
def test_calls_refuse_what_they_cannot_take(model: CommandR, call: Callable[[CommandR], object]) -> None:
    with pytest.raises(ArgumentError):
        call(model)


def test_numpy_integers_and_iterators_are_taken(model: CommandR) -> None:
    params = SamplingParams(top_k=np.int64(3), seed=np.uint64(7), logit_bias={np.int64(5): np.float32(1)})
    assert params == SamplingParams(top_k=3, seed=7, logit_bias={5: 1.0})
    reply = model.generate("a", max_tokens=np.int32(2), logit_bias={np.int64(5): -1.0})
    assert reply.usage.completion_tokens <= 2
    assert np.array_equal(model.logits(iter([5, 30])), model.logits(np.array([5, 30])))  # type: ignore[arg-type]


def test_the_path_is_checked_before_the_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="the path of the file is empty"):
        CommandR("")
    with (
        pytest.raises(ArgumentError, match="one of f32, f16, bf16, q8_0, q4_0, not 'q9'"),
        Model(models.gguf("gqa")) as weights,
    ):
        Session(weights, n_ctx=256, type_v="q9")


@pytest.mark.parametrize(("method", "told"), [(CommandR.generate, GenerateOptions), (CommandR.chat, ChatOptions)])
def test_type_checkers_are_told_of_every_keyword(method: Any, told: Any) -> None:
    parameters = inspect.signature(method).parameters.values()
    keywords = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY} - {"stream"}
    sampling = {field.name for field in dataclasses.fields(SamplingParams)}
    assert set(told.__annotations__) == keywords | sampling
