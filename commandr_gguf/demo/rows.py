"""Examples as rows of token ids, in batches, and the text that the tokenizer is trained on."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from commandr_gguf.demo.data.example import TASKS, Example, Task
from commandr_gguf.demo.data.source import Prompts, Source
from commandr_gguf.demo.templates import CHAT_TEMPLATES
from commandr_gguf.demo.tokenizer import SPECIAL_TOKENS, TURN_TOKENS, VOCAB_SIZE, turn_token_id

WEIGHTS: dict[Task, float] = {"chat": 0.1, "tools": 0.28, "accurate": 0.34, "fast": 0.28}
"""How often each task is drawn."""
REHEARSED = 0.02
"""The part of the training that begins with copying random tokens."""
GROWN = 0.35
"""The part of the training after which examples have their full size."""
_POOL = 1024
"""Examples that are sorted by length together."""


@dataclass(frozen=True)
class Row:
    """One example as token ids; the reply, with its end token, begins at `start`."""

    tokens: list[int]
    start: int


class Encoder:
    """Examples to rows, with the tokenizer of a checkpoint folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._prompts = Prompts(CHAT_TEMPLATES)
        self._end = turn_token_id("<|END_OF_TURN_TOKEN|>")

    def row(self, example: Example) -> Row:
        """The prompt, the reply and the end token."""
        texts = [self._prompts.render(example), example.reply]
        prompt, reply = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return Row([*prompt.ids, *reply.ids, self._end], len(prompt.ids))


def corpus(count: int = 20000) -> list[str]:
    """The text that the tokenizer is trained on: training prompts and replies without their special tokens."""
    source, prompts = Source("train", 0), Prompts(CHAT_TEMPLATES)
    examples = (source.example(task) for task in itertools.islice(itertools.cycle(TASKS), count))
    return [re.sub(r"<\|?[A-Z_0-9]+\|?>", "", prompts.render(e) + e.reply) for e in examples]


class Batches:
    """Endless batches of rows of similar length, with the curriculum."""

    def __init__(self, encoder: Encoder, seed: int, n_tokens: int) -> None:
        """`n_tokens`: of a batch, padding included."""
        self.progress = 0.0
        """The part of the training that is done; whoever takes batches keeps it."""
        self._encoder = encoder
        self._source = Source("train", seed)
        self._rng = random.Random(seed)  # noqa: S311  # data, not secrets
        self._n_tokens = n_tokens

    def __iter__(self) -> Iterator[list[Row]]:
        while True:
            rows = sorted(self._pool(), key=lambda row: len(row.tokens))
            batches: list[list[Row]] = [[]]
            for row in rows:
                if (len(batches[-1]) + 1) * len(row.tokens) > self._n_tokens:
                    batches.append([])
                batches[-1].append(row)
            self._rng.shuffle(batches)
            yield from batches

    def _pool(self) -> list[Row]:
        if self.progress < REHEARSED:
            return [rehearsal(self._rng) for _ in range(_POOL)]
        size = min(1.0, self.progress / GROWN)
        tasks = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=_POOL)
        return [self._encoder.row(self._source.example(task, size)) for task in tasks]


def rehearsal(rng: random.Random) -> Row:
    """Random tokens, of which a part comes again: practice in copying, every token of which counts."""
    known = range(len(SPECIAL_TOKENS), VOCAB_SIZE - len(TURN_TOKENS))
    tokens = [SPECIAL_TOKENS.index("<BOS_TOKEN>"), *(rng.choice(known) for _ in range(rng.randint(12, 80)))]
    first = rng.randrange(1, len(tokens) - 10)
    return Row([*tokens, *tokens[first : first + 40]], len(tokens) + 1)
