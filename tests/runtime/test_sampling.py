"""Sampling parameters and the sampler's Python side; its statistics are tested in tests/native."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from commandr_gguf import ArgumentError, ClosedError, Sampler, SamplingParams, allowed_mask, logprobs

LOGITS = np.array([0.0, 1.0, 3.0, 2.0, -1.0], np.float32)
GREEDY = SamplingParams(temperature=0)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": True},
        {"top_k": -1},
        {"top_k": 2**31},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"typical_p": 0.0},
        {"repeat_penalty": 0.0},
        {"frequency_penalty": math.nan},
        {"presence_penalty": math.inf},
        {"penalty_last_n": -2},
        {"seed": -1},
        {"seed": 2**64 - 1},
        {"logit_bias": {-1: 0.0}},
        {"logit_bias": {0: math.nan}},
        {"logit_bias": {0: math.inf}},
        {"logit_bias": {"a": 1.0}},
    ],
)
def test_values_out_of_range_name_the_parameter(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=f"^{next(iter(options))} must"):
        SamplingParams(**options)


def test_parameters_cannot_change() -> None:
    with pytest.raises(AttributeError):
        GREEDY.temperature = 1.0  # type: ignore[misc]


def test_defaults_are_those_of_the_library() -> None:
    from commandr_gguf._native import lib

    native, ours = lib.commandr_sampling_default_params(), SamplingParams()
    for name in SamplingParams.__dataclass_fields__:
        if name not in ("seed", "logit_bias"):
            assert getattr(native, name) == getattr(ours, name), name
    assert native.seed == lib.COMMANDR_DEFAULT_SEED


def test_greedy_bias_mask_and_penalties() -> None:
    assert Sampler(5, GREEDY).sample(LOGITS) == 2
    assert Sampler(5, GREEDY).sample(LOGITS, mask=allowed_mask(5, [0, 3])) == 3
    assert Sampler(5, SamplingParams(temperature=0, logit_bias={4: 9.0})).sample(LOGITS) == 4
    assert Sampler(5, SamplingParams(temperature=0, logit_bias={2: -math.inf})).sample(LOGITS) == 3
    assert Sampler(5, SamplingParams(temperature=0, presence_penalty=1.5)).sample(LOGITS, [2]) == 3


def test_what_the_sampler_does_not_take() -> None:
    sampler = Sampler(5, GREEDY)
    with pytest.raises(ArgumentError, match=r"logits must have the shape \(5,\)"):
        sampler.sample(LOGITS[:4])
    with pytest.raises(ArgumentError, match="mask must be uint32 words for 5 tokens"):
        sampler.sample(LOGITS, mask=np.zeros(2, np.uint32))
    with pytest.raises(ArgumentError):
        sampler.sample(LOGITS, mask=np.zeros(1, np.uint32))
    with pytest.raises(ArgumentError):
        sampler.sample(np.full(5, np.nan, np.float32))
    with pytest.raises(ArgumentError, match="allowed tokens must be 0 to 4"):
        allowed_mask(5, [5])
    with pytest.raises(ArgumentError):
        Sampler(5, SamplingParams(logit_bias={5: 1.0}))
    with pytest.raises(ArgumentError):
        Sampler(0, GREEDY)
    sampler.close()
    sampler.close()
    with pytest.raises(ClosedError):
        sampler.sample(LOGITS)


@pytest.mark.parametrize("n_vocab", [1, 31, 32, 33, 256000])
def test_masks_allow_what_they_say(n_vocab: int) -> None:
    allowed = sorted({0, n_vocab // 2, n_vocab - 1})
    words = allowed_mask(n_vocab, allowed)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")
    assert np.flatnonzero(bits).tolist() == allowed
    assert len(words) == (n_vocab + 31) // 32


def test_logprobs() -> None:
    expected = LOGITS - np.log(np.exp(LOGITS).sum())
    result = logprobs(LOGITS, 5, 1, 3)
    assert result.token == 1
    assert result.logprob == pytest.approx(expected[1], abs=1e-6)
    assert [token for token, _ in result.top] == [2, 3, 1]
    assert [value for _, value in result.top] == pytest.approx(expected[[2, 3, 1]].tolist(), abs=1e-6)
    for token, n_top in ((5, 0), (-1, 0), (0, 6), (0, -1)):
        with pytest.raises(ArgumentError):
            logprobs(LOGITS, 5, token, n_top)
