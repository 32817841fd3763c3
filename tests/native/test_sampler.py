"""The sampler's steps before the filters, its random numbers, and what it refuses."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from commandr_gguf._native import ffi, lib
from sampling import Floats, Sampler, SamplerError, mask_of, uniforms

INF = float("inf")
NAN = float("nan")


def row(*logits: float) -> Floats:
    return np.array(logits, np.float32)


def greedy(n_vocab: int, **params: float) -> Sampler:
    return Sampler(n_vocab, temperature=0.0, **params)


def message_of(sampler: Sampler, logits: Floats, *args: object) -> str:
    with pytest.raises(SamplerError) as error:
        sampler.sample(logits, *args)  # type: ignore[arg-type]
    assert error.value.status == lib.COMMANDR_ERROR_ARGUMENT
    return str(error.value)


# ---- greedy


@pytest.mark.parametrize("n_vocab", [1, 5, 128, 129, 4096, 256_000])
def test_greedy_takes_the_largest(n_vocab: int) -> None:
    for seed in range(5):
        logits = np.random.default_rng(seed).standard_normal(n_vocab).astype(np.float32)
        assert greedy(n_vocab).sample(logits) == logits.argmax()
        assert greedy(n_vocab, top_k=3, top_p=0.1, typical_p=0.1, min_p=0.9).sample(logits) == logits.argmax()


def test_greedy_takes_the_first_of_equals() -> None:
    logits = np.zeros(1000, np.float32)
    logits[[333, 555, 999]] = 7
    assert greedy(1000).sample(logits) == 333
    assert greedy(3).sample(row(-0.0, 0.0, -0.0)) == 0
    assert greedy(3).sample(row(-1, -1, -2)) == 0


def test_infinite_logits() -> None:
    assert greedy(4).sample(row(1, INF, INF, 3)) == 1
    sampler = Sampler(4)
    assert {sampler.sample(row(1, INF, INF, 3)) for _ in range(100)} == {1, 2}


# ---- penalties, bias, mask


def expected_after_penalties(
    logits: Floats, window: list[int], repeat: float, frequency: float, presence: float
) -> int:
    adjusted = logits.astype(np.float64)
    for token in set(window):
        adjusted[token] = adjusted[token] / repeat if adjusted[token] > 0 else adjusted[token] * repeat
        adjusted[token] -= window.count(token) * frequency + presence
    return int(adjusted.argmax())


@pytest.mark.parametrize("last_n", [-1, 0, 1, 7, 64, 1000])
@pytest.mark.parametrize(
    ("repeat", "frequency", "presence"),
    [(1.3, 0, 0), (0.7, 0, 0), (1, 0.4, 0), (1, -0.4, 0), (1, 0, 0.9), (1.2, 0.1, -0.2)],
)
def test_penalties(repeat: float, frequency: float, presence: float, last_n: int) -> None:
    rng = np.random.default_rng(8)
    sampler = greedy(
        50, repeat_penalty=repeat, frequency_penalty=frequency, presence_penalty=presence, penalty_last_n=last_n
    )
    for n_history in (0, 1, 5, 64, 200):
        logits = (rng.standard_normal(50) * 2).astype(np.float32)
        before = logits.copy()
        history = rng.integers(0, 50, n_history).tolist()
        window = history if last_n < 0 else history[max(0, n_history - last_n) :]
        expected = expected_after_penalties(logits, window, repeat, frequency, presence)
        assert sampler.sample(logits, history) == expected
        np.testing.assert_array_equal(logits, before)


def test_repeat_penalty_treats_both_signs_as_less_likely() -> None:
    assert greedy(2, repeat_penalty=2.0).sample(row(3, 2), [0]) == 1
    assert greedy(2, repeat_penalty=2.0).sample(row(-3, -5), [0]) == 1
    assert greedy(2, repeat_penalty=1.0, frequency_penalty=0.6).sample(row(3, 2), [0]) == 0
    assert greedy(2, repeat_penalty=1.0, frequency_penalty=0.6).sample(row(3, 2), [0, 0]) == 1
    assert greedy(2, repeat_penalty=1.0, presence_penalty=0.6).sample(row(3, 2), [0, 0]) == 0


def test_bias_is_added_after_the_penalties() -> None:
    sampler = greedy(3, repeat_penalty=4.0)
    sampler.set_bias({0: 2.0})
    assert sampler.sample(row(4, 2.5, 0), [0]) == 0  # 4 / 4 + 2, not (4 + 2) / 4
    sampler.set_bias({0: -INF, 1: -INF})
    assert sampler.sample(row(4, 2.5, 0), [0]) == 2
    sampler.set_bias({})
    assert sampler.sample(row(4, 2.5, 0)) == 0


def test_forbidden_tokens_are_never_drawn() -> None:
    sampler = Sampler(4)
    sampler.set_bias({1: -INF})
    assert {sampler.sample(row(0, 9, 0, 0)) for _ in range(200)} == {0, 2, 3}
    assert {sampler.sample(row(0, NAN, 0, 0)) for _ in range(200)} == {0, 2, 3}
    assert {sampler.sample(row(0, INF, 0, 0)) for _ in range(200)} == {0, 2, 3}


@pytest.mark.parametrize("n_vocab", [1, 31, 32, 33, 300, 5000])
def test_mask(n_vocab: int) -> None:
    rng = np.random.default_rng(9)
    for _ in range(10):
        logits = rng.standard_normal(n_vocab).astype(np.float32)
        allowed = np.flatnonzero(rng.random(n_vocab) < 0.3)
        if len(allowed) == 0:
            allowed = np.array([0])
        mask = mask_of(n_vocab, allowed.tolist())
        assert greedy(n_vocab).sample(logits, mask=mask) == allowed[logits[allowed].argmax()]
        sampler = Sampler(n_vocab, top_p=0.9)
        assert all(sampler.sample(logits, mask=mask) in allowed for _ in range(20))


def test_what_is_masked_may_be_no_number() -> None:
    assert greedy(3).sample(row(NAN, 1, 2), mask=mask_of(3, [1, 2])) == 2
    assert "token 0 is not a number" in message_of(greedy(3), row(NAN, 1, 2), (), mask_of(3, [0, 1]))


# ---- random numbers


def test_draws_follow_the_probabilities() -> None:
    """Chi-square over 40,000 draws: 9 degrees of freedom exceed 45 once in a million seeds."""
    logits = np.random.default_rng(10).standard_normal(10).astype(np.float32)
    probabilities = np.exp(logits.astype(np.float64) / 0.7)
    probabilities /= probabilities.sum()
    sampler = Sampler(10, temperature=0.7, seed=123)
    counts = np.bincount([sampler.sample(logits) for _ in range(40_000)], minlength=10)
    expected = probabilities * 40_000
    assert ((counts - expected) ** 2 / expected).sum() < 45


def test_a_seed_repeats_itself() -> None:
    logits = np.zeros(1000, np.float32)

    def draws(seed: int) -> list[int]:
        sampler = Sampler(1000, seed=seed)
        return [sampler.sample(logits) for _ in range(50)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(0) == [int(1000 * uniform) for uniform in islice(uniforms(0), 50)]
    default = 2**64 - 1
    assert draws(default) != draws(default)


def test_generator_is_the_published_one() -> None:
    """xoshiro256** started by splitmix64 from 0 begins so in other implementations, too."""
    assert [int(uniform * 2**53) << 11 for uniform in islice(uniforms(0), 2)] == [
        11091344671253066420 & ~2047,
        13793997310169335082 & ~2047,
    ]


# ---- refusals


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, NAN, INF]),
        ("top_k", [-1]),
        ("top_p", [-0.1, 1.01, NAN]),
        ("min_p", [-0.1, 1.01, NAN]),
        ("typical_p", [-0.1, 1.01, NAN]),
        ("repeat_penalty", [0.0, -1.0, NAN, INF]),
        ("frequency_penalty", [NAN, INF, -INF]),
        ("presence_penalty", [NAN, INF, -INF]),
        ("penalty_last_n", [-2]),
    ],
)
def test_parameters_out_of_range_are_named(name: str, values: list[float]) -> None:
    for value in values:
        with pytest.raises(SamplerError, match=f"^{name} is .*; it must be ") as error:
            Sampler(10, **{name: value})
        assert error.value.status == lib.COMMANDR_ERROR_ARGUMENT


@pytest.mark.parametrize("n_vocab", [0, -1, 2**31])
def test_impossible_vocabularies(n_vocab: int) -> None:
    with pytest.raises(SamplerError, match="n_vocab is "):
        Sampler(n_vocab)


def test_defaults_switch_every_step_off() -> None:
    params = lib.commandr_sampling_default_params()
    assert (params.temperature, params.top_k, params.top_p, params.min_p, params.typical_p) == (1, 0, 1, 0, 1)
    assert (params.repeat_penalty, params.frequency_penalty, params.presence_penalty) == (1, 0, 0)
    assert (params.penalty_last_n, params.seed) == (64, 2**64 - 1)


def test_nothing_to_choose_from() -> None:
    for sampler in (greedy(3), Sampler(3)):
        assert "no token is allowed" in message_of(sampler, row(-INF, -INF, -INF))
        assert "no token is allowed" in message_of(sampler, row(1, 2, 3), (), mask_of(3, []))
        sampler.set_bias({0: -INF, 1: -INF})
        assert "no token is allowed" in message_of(sampler, row(1, 2, -INF))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("token", [0, 127, 128, 299])
def test_no_number_among_the_logits(token: int, sign: int) -> None:
    logits = np.zeros(300, np.float32)
    logits[token] = np.copysign(NAN, sign)
    for sampler in (greedy(300), Sampler(300), Sampler(300, top_k=5)):
        assert message_of(sampler, logits) == f"the logit of token {token} is not a number"


@pytest.mark.parametrize("token", [-1, 10, 2**31 - 1])
def test_tokens_outside_the_vocabulary(token: int) -> None:
    logits = np.arange(10, dtype=np.float32)
    sampler = greedy(10, repeat_penalty=1.5)
    message = f"token {token} at place 1 of the {{}} is outside the vocabulary of 10"
    assert message_of(sampler, logits, [9, token]) == message.format("history")
    assert sampler.sample(logits, [9]) == 8  # and nothing of the refused history is left
    with pytest.raises(SamplerError) as error:
        sampler.set_bias({3: 1.0, token: 1.0})
    assert str(error.value) == message.format("logit bias")


@pytest.mark.parametrize("bias", [NAN, INF])
def test_impossible_bias_leaves_the_old_one(bias: float) -> None:
    sampler = greedy(3)
    sampler.set_bias({0: 10.0})
    with pytest.raises(SamplerError, match="the logit bias of token 1 is "):
        sampler.set_bias({2: 20.0, 1: bias})
    assert sampler.sample(row(0, 5, 6)) == 0


def test_null_pointers() -> None:
    sampler, token = greedy(3).handle, ffi.new("int32_t *", 77)
    logits = ffi.new("float[3]")
    argument = lib.COMMANDR_ERROR_ARGUMENT
    assert lib.commandr_sampler_sample(ffi.NULL, logits, ffi.NULL, 0, ffi.NULL, token) == argument
    assert lib.commandr_sampler_sample(sampler, ffi.NULL, ffi.NULL, 0, ffi.NULL, token) == argument
    assert lib.commandr_sampler_sample(sampler, logits, ffi.NULL, 0, ffi.NULL, ffi.NULL) == argument
    assert lib.commandr_sampler_sample(sampler, logits, ffi.NULL, 1, ffi.NULL, token) == argument
    assert lib.commandr_sampler_sample(sampler, logits, ffi.NULL, -1, ffi.NULL, token) == argument
    assert lib.commandr_sampler_set_bias(sampler, ffi.NULL, ffi.NULL, 1) == argument
    assert lib.commandr_sampler_set_bias(ffi.NULL, ffi.NULL, ffi.NULL, 0) == argument
    assert lib.commandr_sampler_init(3, lib.commandr_sampling_default_params(), ffi.NULL) == argument
    assert token[0] == 77
    lib.commandr_sampler_free(ffi.NULL)
