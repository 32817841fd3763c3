"""Choosing a token from logits."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, ClosedError, check, int32, integer, number


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How a token is chosen.

    Applied in this order: repeat, frequency and presence penalties; logit bias; the mask of allowed tokens;
    temperature; top_k; typical_p; top_p; min_p. The defaults leave every step out, but for a temperature of 1.

    Raises:
        ArgumentError: a value is outside its range.
    """

    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest tokens whose probabilities sum to this."""
    min_p: float = 0.0
    """Drop what is less likely than this times the most likely token."""
    typical_p: float = 1.0
    """Locally typical sampling (arXiv:2202.00666)."""
    repeat_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that have occurred."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once per occurrence."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of a token that has occurred."""
    penalty_last_n: int = 64
    """How many of the last tokens, the prompt's included, count for penalties; -1 = all."""
    seed: int | None = None
    """0 to 2**64 - 2; None takes one from the operating system."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens; -inf forbids one."""

    def __post_init__(self) -> None:
        for name in ("top_k", "penalty_last_n"):
            self._set(name, integer(name, getattr(self, name)))
        for name in _NUMBERS:
            self._set(name, number(name, getattr(self, name)))
        _require("temperature", self.temperature, "0 or more", self.temperature >= 0)
        _require("top_k", self.top_k, "0 to 2147483647", 0 <= self.top_k < 2**31)
        _require("top_p", self.top_p, "above 0 and at most 1", 0 < self.top_p <= 1)
        _require("min_p", self.min_p, "0 to 1", 0 <= self.min_p <= 1)
        _require("typical_p", self.typical_p, "above 0 and at most 1", 0 < self.typical_p <= 1)
        _require("repeat_penalty", self.repeat_penalty, "above 0", self.repeat_penalty > 0)
        _require("frequency_penalty", self.frequency_penalty, "finite", True)
        _require("presence_penalty", self.presence_penalty, "finite", True)
        _require("penalty_last_n", self.penalty_last_n, "-1 to 2147483647", -1 <= self.penalty_last_n < 2**31)
        if self.seed is not None:
            self._set("seed", integer("seed", self.seed, 0, 2**64 - 2))
        self._set("logit_bias", _biases(self.logit_bias))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


_NUMBERS = (
    "temperature",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "frequency_penalty",
    "presence_penalty",
)


def _require(name: str, value: float, allowed: str, valid: bool) -> None:
    if not math.isfinite(value) or not valid:
        raise ArgumentError(f"{name} must be {allowed}, not {value!r}")


def _biases(logit_bias: Mapping[int, float]) -> dict[int, float]:
    if not isinstance(logit_bias, Mapping):
        raise ArgumentError(f"logit_bias must map token ids to numbers, not be {logit_bias!r}")
    biases: dict[int, float] = {}
    for token, bias in logit_bias.items():
        try:
            index, value = integer("token", token, 0, 2**31 - 1), number("bias", bias)
        except ArgumentError:
            index, value = -1, math.nan
        if math.isnan(value) or value == math.inf:
            raise ArgumentError(f"logit_bias must map token ids to numbers, not {token!r} to {bias!r}")
        biases[index] = value
    return biases


@dataclass(frozen=True)
class Logprobs:
    """Natural logarithms of the probabilities of one token and of the most likely ones."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    """The most likely tokens in falling order."""


class Sampler:
    """A random stream and the parameters of one generation. Used by one thread at a time."""

    def __init__(self, n_vocab: int, params: SamplingParams) -> None:
        self._n_vocab = n_vocab
        c = lib.commandr_sampling_default_params()
        for name in SamplingParams.__dataclass_fields__:
            if name not in ("seed", "logit_bias"):
                setattr(c, name, getattr(params, name))
        c.seed = lib.COMMANDR_DEFAULT_SEED if params.seed is None else params.seed
        out = ffi.new("commandr_sampler **")
        check(lib.commandr_sampler_init(n_vocab, c, out))
        self._pointer: Any = out[0]
        self._finalizer = weakref.finalize(self, lib.commandr_sampler_free, out[0])
        self._token = ffi.new("int32_t *")
        if params.logit_bias:
            ids = list(params.logit_bias)
            biases = list(params.logit_bias.values())
            check(lib.commandr_sampler_set_bias(self._pointer, ids, biases, len(ids)))

    def sample(
        self, logits: Any, history: Any = (), n_history: int | None = None, mask: npt.NDArray[np.uint32] | None = None
    ) -> int:
        """Pick a token.

        Args:
            logits: float32 array or native pointer, [n_vocab].
            history: the tokens so far, oldest first: a sequence, or a native pointer.
            n_history: how many of them, when it is a pointer.
            mask: bit (i % 32) of word i // 32 allows token i, [(n_vocab + 31) // 32]; None allows all.

        Raises:
            ArgumentError: no token is allowed, or the logit of an allowed one is NaN.
        """
        if self._pointer is None:
            raise ClosedError("the sampler was closed")
        words = ffi.NULL if mask is None else mask_buffer(mask, self._n_vocab)
        row = _row(logits, self._n_vocab)
        n = len(history) if n_history is None else n_history
        check(lib.commandr_sampler_sample(self._pointer, row, history, n, words, self._token))
        return int(self._token[0])

    def close(self) -> None:
        """Free the sampler. Calling it again does nothing."""
        self._pointer = None
        self._finalizer()


def logprobs(logits: Any, n_vocab: int, token: int, n_top: int = 0) -> Logprobs:
    """Log-probabilities under softmax(logits), of `token` and of the `n_top` most likely.

    Args:
        logits: float pointer or float32 array, [n_vocab].
        n_vocab: the vocabulary's size.
        token: 0 .. n_vocab - 1.
        n_top: 0 .. n_vocab.
    """
    token, n_top = int32("token", token), integer("n_top", n_top, 0, n_vocab)
    logprob = ffi.new("float *")
    ids = ffi.new("int32_t[]", max(1, n_top))
    values = ffi.new("float[]", max(1, n_top))
    check(lib.commandr_logprobs(_row(logits, n_vocab), n_vocab, token, logprob, n_top, ids, values))
    return Logprobs(token, float(logprob[0]), list(zip(ffi.unpack(ids, n_top), ffi.unpack(values, n_top), strict=True)))


def _row(logits: Any, n_vocab: int) -> Any:
    if not isinstance(logits, np.ndarray):
        return logits
    row = np.ascontiguousarray(logits, dtype=np.float32)
    if row.shape != (n_vocab,):
        raise ArgumentError(f"logits must have the shape ({n_vocab},), not {row.shape}")
    return ffi.from_buffer("float[]", row)


def mask_buffer(mask: npt.NDArray[np.uint32], n_vocab: int) -> Any:
    """A mask as a native uint32_t[]. Raises ArgumentError unless it is one of this many tokens."""
    if mask.dtype != np.uint32 or mask.shape != ((n_vocab + 31) // 32,) or not mask.flags.c_contiguous:
        raise ArgumentError(f"mask must be uint32 words for {n_vocab} tokens, one behind the other")
    return ffi.from_buffer("uint32_t[]", mask)


def allowed_mask(n_vocab: int, allowed: Sequence[int]) -> npt.NDArray[np.uint32]:
    """The bit mask for `Sampler.sample` that allows these tokens and no other."""
    words = np.zeros((n_vocab + 31) // 32, dtype=np.uint32)
    ids = np.asarray(allowed, dtype=np.int64)
    if ids.size and (ids.min() < 0 or ids.max() >= n_vocab):
        raise ArgumentError(f"allowed tokens must be 0 to {n_vocab - 1}")
    np.bitwise_or.at(words, ids // 32, (np.uint32(1) << (ids % 32).astype(np.uint32)))
    return words
