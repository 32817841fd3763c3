"""Constraints for tests: engines of two vocabularies, and a writer who knows the words of a format, not its rules."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import commandr_gguf.demo
import data
from commandr_gguf import Tokenizer
from commandr_gguf.constraint import Constraint, ConstraintEngine
from convert.checkpoint import read_json
from convert.vocab import read_vocab

VOCABULARIES = ("demo", "real")
"""Of the embedded model, and of Command-R+: the second is fetched, so tests of it are marked `data`."""


@functools.cache
def tokenizer(vocabulary: str) -> Tokenizer:
    """The tokenizer of one of VOCABULARIES."""
    if vocabulary == "real":
        return Tokenizer.from_gguf(data.llama_cpp_vocab())
    folder = Path(commandr_gguf.demo.__file__).parent / "checkpoint"
    config = read_json(folder / "config.json")
    vocab = read_vocab(folder, config, read_json(folder / "tokenizer_config.json"), config["vocab_size"])
    return Tokenizer(
        vocab.tokens,
        vocab.merges,
        token_types=[int(kind) for kind in vocab.types],
        bos_id=vocab.special_ids["bos"],
        eos_id=vocab.special_ids["eos"],
    )


@functools.cache
def engine(vocabulary: str) -> ConstraintEngine:
    """An engine with as many logits as tokens."""
    return ConstraintEngine(tokenizer(vocabulary), len(tokenizer(vocabulary)))


def allowed(mask: npt.NDArray[np.uint32], n_vocab: int) -> npt.NDArray[np.bool_]:
    """A mask's bits, [n_vocab]."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:n_vocab].astype(bool)


def refused(constraint: Constraint, tokens: Sequence[int]) -> int | None:
    """The index of the first token that the mask of its step does not allow; None when all are."""
    for i, token in enumerate(tokens):
        if not constraint.mask()[token // 32] >> np.uint32(token % 32) & 1:
            return i
        constraint.accept(token)
    return None


def why_refused(vocabulary: str, grammar: str, reply: str) -> str | None:
    """The beginning of a reply and its end of turn with which the grammar leaves it; None when it is allowed."""
    speller = tokenizer(vocabulary)
    assert speller.eos_id is not None
    tokens = [*speller.encode(reply), speller.eos_id]
    i = refused(engine(vocabulary).constraint(grammar), tokens)
    return None if i is None else speller.decode(tokens[: i + 1])


class RandomWriter:
    """Writes tokens at random, and phrases of the format wherever they come to mind."""

    def __init__(self, vocabulary: str, seed: int, phrases: Sequence[str]) -> None:
        self._tokenizer = tokenizer(vocabulary)
        self._rng = random.Random(seed)
        self._phrases = [self._tokenizer.encode(phrase) for phrase in phrases]
        self._ends = sorted(self._tokenizer.end_of_generation)

    def write(self, constraint: Constraint | None, n_max: int) -> str | None:
        """A reply as text, or None when it has no end after n_max tokens. One with a constraint is valid UTF-8."""
        n_vocab = len(self._tokenizer)
        anything = np.array([not self._tokenizer.is_special(token) for token in range(n_vocab)])
        anything[self._ends] = True
        tokens: list[int] = []
        planned: list[int] = []
        while len(tokens) < n_max:
            may = anything if constraint is None else allowed(constraint.mask(), n_vocab)
            planned = planned if planned and may[planned[0]] else self._plan(may)
            token = planned.pop(0)
            if constraint is not None:
                constraint.accept(token)
            if token in self._ends:
                written = b"".join(map(self._tokenizer.token_bytes, tokens))
                return written.decode("utf-8", "replace" if constraint is None else "strict")
            tokens.append(token)
        return None

    def _plan(self, may: npt.NDArray[np.bool_]) -> list[int]:
        ends = [token for token in self._ends if may[token]]
        if ends and self._rng.random() < 0.05:
            return ends[:1]
        phrases = [phrase for phrase in self._phrases if may[phrase[0]]]
        if phrases and self._rng.random() < 0.5:
            return list(self._rng.choice(phrases))
        return [int(self._rng.choice(np.flatnonzero(may)))]
