"""Prompts for server_load.py: words in random order, as long as wanted by the model's own tokenizer."""

from __future__ import annotations

import random

from commandr_gguf.tokenizer import Tokenizer

_TEXT = (
    "the a of and to in was is on by for with from at this that bridge river city opened first built stone water year "
    "town north south house light station road train over under between after before when where which many small "
    "large old new people work time day night long short high low green white black red open close begin end keep "
    "report letter page number name answer question document source part whole point line field garden winter summer"
)


class Texts:
    """Texts of a tokenizer's lengths.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        sample = self._words(random.Random(0), 1000)
        self._tokens_per_word = len(tokenizer.encode(sample)) / 1000

    def text(self, n_tokens: int, seed: str) -> str:
        """About this many tokens, others for each seed from the first word on."""
        return self._words(random.Random(seed), max(1, round(n_tokens / self._tokens_per_word)))

    @staticmethod
    def _words(rng: random.Random, n: int) -> str:
        return " ".join(rng.choices(_TEXT.split(), k=n))
