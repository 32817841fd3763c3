"""Rows of training: the tokens that the model is asked with, and what the steps of training hold."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import embedded
from commandr_gguf import CommandR
from commandr_gguf.demo.data.example import TASKS, Example, Task
from commandr_gguf.demo.data.source import Prompts
from commandr_gguf.demo.embedded import CHECKPOINT
from commandr_gguf.demo.evaluate import held_out, request
from commandr_gguf.demo.rows import N_CHAT, REHEARSED, Batches, Encoder, Row
from commandr_gguf.demo.templates import CHAT_TEMPLATES
from commandr_gguf.demo.tokenizer import SPECIAL_TOKENS, TURN_TOKENS, VOCAB_SIZE, turn_token_id

N_TOKENS = 4096
N_STEPS = 60


@dataclass(frozen=True)
class TaskRow(Row):
    """A row that knows its task."""

    task: Task


class Words(Encoder):
    """Needs no tokenizer: a token for each word."""

    def __init__(self) -> None:
        self._prompts = Prompts(CHAT_TEMPLATES)

    def row(self, example: Example) -> TaskRow:
        prompt, reply = self._prompts.render(example).split(), example.reply.split()
        return TaskRow([zlib.crc32(word.encode()) for word in prompt + reply], len(prompt), example.task)


def steps(seed: int, progress: float, count: int = N_STEPS, n_tokens: int = N_TOKENS) -> Iterator[list[list[Row]]]:
    batches = Batches(Words(), seed, n_tokens)
    batches.progress = progress
    return itertools.islice(batches, count)


def tasks_of(rows: list[Row]) -> set[Task]:
    return {row.task for row in rows if isinstance(row, TaskRow)}


@pytest.mark.parametrize("progress", [REHEARSED, 1.0])
def test_a_step_is_a_batch_of_long_rows_and_one_of_chats(progress: float) -> None:
    mixed = 0
    for long, chats in steps(3, progress):
        assert tasks_of(chats) == {"chat"}
        assert len(chats) == N_CHAT
        assert long
        assert "chat" not in tasks_of(long)
        mixed += len(tasks_of(long)) > 1
    assert mixed > 0.6 * N_STEPS


@pytest.mark.parametrize("progress", [REHEARSED, 0.5, 1.0])
def test_no_batch_has_more_tokens_than_it_may(progress: float) -> None:
    fullest = 0
    for batches in steps(4, progress):
        for batch in batches:
            padded = len(batch) * max(len(row.tokens) for row in batch)
            assert padded <= N_TOKENS
            fullest = max(fullest, padded)
    assert fullest > 0.8 * N_TOKENS


def test_examples_grow() -> None:
    early, late = ([len(row.tokens) for long, _ in steps(5, progress) for row in long] for progress in (REHEARSED, 1.0))
    assert 1.5 * sum(early) / len(early) < sum(late) / len(late)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_the_same_seed_gives_the_same_steps(progress: float) -> None:
    first = list(steps(6, progress, 12))
    assert list(steps(6, progress, 12)) == first
    assert list(steps(7, progress, 12)) != first


def test_a_rehearsal_repeats_what_stood_there() -> None:
    for (rows,) in steps(8, 0.0):
        for row in rows:
            begin, *known = row.tokens
            assert begin == SPECIAL_TOKENS.index("<BOS_TOKEN>")
            assert all(len(SPECIAL_TOKENS) <= token < VOCAB_SIZE - len(TURN_TOKENS) for token in known)
            # Where the reply starts, its first token has been said already: the copy can be foretold.
            first, *reply = row.tokens[row.start - 1 :]
            assert len(reply) >= 9
            before = row.tokens[: row.start - 1]
            places = [i for i, token in enumerate(before) if token == first]
            assert any(before[i + 1 : i + 1 + len(reply)] == reply for i in places)


def test_prompts_are_those_that_the_runtime_makes() -> None:
    path = embedded.path()  # skips the test where there is no checkpoint
    encoder, end = Encoder(CHECKPOINT), turn_token_id("<|END_OF_TURN_TOKEN|>")
    with CommandR(path) as model:
        for example in (example for task in TASKS for example in held_out(task, 25, 31)):
            row = encoder.row(example)
            assert row.tokens[: row.start] == list(model.prompt(**request(example)).tokens)
            reply = model.tokenizer.decode(row.tokens[row.start : -1])
            assert (reply, row.tokens[-1]) == (example.reply, end)
