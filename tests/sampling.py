"""Sampling as its definitions say, in float64 and without care for speed; and the C sampler behind a small class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf._native import ffi, lib

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

MASK_64 = 2**64 - 1


class SamplerError(Exception):
    """A call failed with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check(status: int) -> None:
    if status != lib.COMMANDR_OK:
        raise SamplerError(status, ffi.string(lib.commandr_last_error()).decode())


class Sampler:
    """The C sampler. Parameters are those of commandr_sampling_params; the seed is 1 unless given."""

    def __init__(self, n_vocab: int, **params: float) -> None:
        self.params = lib.commandr_sampling_default_params()
        self.params.seed = 1
        for name, value in params.items():
            setattr(self.params, name, value)
        out = ffi.new("commandr_sampler **")
        check(lib.commandr_sampler_init(n_vocab, self.params, out))
        self.handle = ffi.gc(out[0], lib.commandr_sampler_free)
        self._token = ffi.new("int32_t *")

    def set_bias(self, bias: dict[int, float]) -> None:
        check(lib.commandr_sampler_set_bias(self.handle, list(bias), list(bias.values()), len(bias)))

    def sample(self, logits: Floats, history: Sequence[int] = (), mask: npt.NDArray[np.uint32] | None = None) -> int:
        bits = ffi.NULL if mask is None else ffi.from_buffer("uint32_t[]", mask)
        row = ffi.from_buffer("float[]", logits)
        check(lib.commandr_sampler_sample(self.handle, row, list(history), len(history), bits, self._token))
        return int(self._token[0])


def mask_of(n_vocab: int, allowed: Sequence[int]) -> npt.NDArray[np.uint32]:
    words = np.zeros((n_vocab + 31) // 32, np.uint32)
    for token in allowed:
        words[token // 32] |= np.uint32(1 << (token % 32))
    return words


def uniforms(seed: int) -> Iterator[float]:
    """The numbers that a sampler of this seed draws: xoshiro256**, started by splitmix64."""
    state = []
    for _ in range(4):
        seed = (seed + 0x9E3779B97F4A7C15) & MASK_64
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK_64
        state.append(z ^ (z >> 31))
    while True:
        x = (state[1] * 5) & MASK_64
        x = (((x << 7) | (x >> 57)) * 9) & MASK_64
        yield (x >> 11) * 2.0**-53
        t = (state[1] << 17) & MASK_64
        state[2] ^= state[0]
        state[3] ^= state[1]
        state[1] ^= state[2]
        state[0] ^= state[3]
        state[2] ^= t
        state[3] = ((state[3] << 45) | (state[3] >> 19)) & MASK_64


def softmax(logits: Doubles) -> Doubles:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def fewest(order: Ids, probabilities: Doubles, target: float) -> Ids:
    """The shortest start of order whose probabilities sum to target; all of it when they do not."""
    sums = np.cumsum(probabilities[order])
    return order[: min(int(np.searchsorted(sums, target)) + 1, len(order))]


def survivors(logits: Floats, params: Any) -> tuple[Ids, Doubles]:
    """The tokens that the filters leave, in rising order, and their probabilities."""
    ids = np.flatnonzero(logits > -np.inf)
    scaled = logits.astype(np.float64) / params.temperature

    def probabilities() -> Doubles:
        p = np.zeros(len(logits))
        p[ids] = softmax(scaled[ids])
        return p

    if params.top_k > 0:
        ids = ids[np.argsort(-scaled[ids], kind="stable")][: params.top_k]
    if params.typical_p < 1:
        p = probabilities()[ids]
        p[p == 0] = 5e-324
        entropy = -(p * np.log(p)).sum()
        order = ids[np.argsort(np.abs(entropy + np.log(p)), kind="stable")]
        ids = fewest(order, probabilities(), params.typical_p)
    ids = np.sort(ids)
    if params.top_p < 1:
        order = ids[np.argsort(-scaled[ids], kind="stable")]
        ids = fewest(order, probabilities(), params.top_p)
    if params.min_p > 0:
        p = probabilities()
        ids = ids[p[ids] >= params.min_p * p[ids].max()]
    ids = np.sort(ids)
    return ids, probabilities()[ids]
