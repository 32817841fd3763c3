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

WEIGHTS: dict[Task, float] = {"tools": 0.2, "accurate": 0.42, "fast": 0.38}
"""How often each of the longer tasks is drawn."""
N_CHAT = 4
"""Chats in each step: they are short, and a batch of their own saves padding."""
REHEARSED = 0.01
"""The part of the training that begins with copying random tokens."""
GROWN = 0.3
"""The part of the training after which examples have their full size."""
_POOL = 128
"""Examples that are sorted by length together: few enough that a batch holds several tasks."""


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
    """Endless steps of training, with the curriculum. A step is a few batches of rows of similar length."""

    def __init__(self, encoder: Encoder, seed: int, n_tokens: int) -> None:
        """`n_tokens`: of a batch, padding included."""
        self.progress = 0.0
        """The part of the training that is done; whoever takes steps keeps it."""
        self._encoder = encoder
        self._source = Source("train", seed)
        self._rng = random.Random(seed)  # noqa: S311  # data, not secrets
        self._n_tokens = n_tokens

    def __iter__(self) -> Iterator[list[list[Row]]]:
        while True:
            if self.progress < REHEARSED:
                yield [[rehearsal(self._rng) for _ in range(self._n_tokens // 121)]]
                continue
            batches = self._cut(sorted(self._long_rows(), key=lambda row: len(row.tokens)))
            self._rng.shuffle(batches)
            for batch in batches:
                yield [batch, [self._row("chat") for _ in range(N_CHAT)]]

    def _long_rows(self) -> list[Row]:
        tasks = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=_POOL)
        return [self._row(task) for task in tasks]

    def _row(self, task: Task) -> Row:
        return self._encoder.row(self._source.example(task, min(1.0, self.progress / GROWN)))

    def _cut(self, rows: list[Row]) -> list[list[Row]]:
        batches: list[list[Row]] = []
        for row in rows:
            if not batches or (len(batches[-1]) + 1) * len(row.tokens) > self._n_tokens:
                batches.append([])
            batches[-1].append(row)
        return batches


def rehearsal(rng: random.Random) -> Row:
    """Random tokens, of which a part comes again: practice in copying."""
    known = range(len(SPECIAL_TOKENS), VOCAB_SIZE - len(TURN_TOKENS))
    tokens = [SPECIAL_TOKENS.index("<BOS_TOKEN>"), *(rng.choice(known) for _ in range(rng.randint(12, 80)))]
    first = rng.randrange(1, len(tokens) - 10)
    return Row([*tokens, *tokens[first : first + 40]], len(tokens) + 1)
