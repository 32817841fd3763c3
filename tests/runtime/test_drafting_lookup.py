"""What followed when the last tokens stood in the text before, and drafters in turn."""

from __future__ import annotations

import array
import time

from commandr_gguf.drafting.chain import Chain
from commandr_gguf.drafting.drafter import Source
from commandr_gguf.drafting.lookup import PromptLookup


def any_length(_source: Source) -> int:
    return 4


def drafted(tokens: list[int], drafter: PromptLookup | None = None) -> list[int]:
    draft = (drafter or PromptLookup()).draft(tokens, any_length)
    return [] if draft is None else draft.tokens


def test_the_longest_match_counts() -> None:
    assert drafted([1, 2, 3, 40, 41, 42, 43, 9, 3, 50, 51, 9, 2, 3, 60, 61, 62, 1, 2, 3]) == [40, 41, 42, 43]
    assert drafted([8, 2, 3, 40, 41, 42, 43, 9, 3, 50, 51, 9, 7, 2, 3]) == [40, 41, 42, 43]
    assert drafted([8, 3, 40, 41, 42, 43, 9, 7, 3]) == [40, 41, 42, 43]


def test_of_equal_matches_the_last_counts() -> None:
    assert drafted([1, 2, 3, 40, 41, 42, 43, 1, 2, 3, 50, 51, 52, 53, 1, 2, 3]) == [50, 51, 52, 53]


def test_repetition_goes_on() -> None:
    assert drafted([9, 1, 2, 1, 2]) == [1, 2, 1, 2]
    assert drafted([9, 7, 7, 7]) == [7, 7, 7, 7]


def test_nothing_is_drafted_for_what_is_new() -> None:
    assert drafted([]) == drafted([1]) == drafted([1, 2, 3]) == []


def test_a_match_may_begin_the_text() -> None:
    assert drafted([1, 2, 3, 4, 1, 2, 3]) == [4, 1, 2, 3]
    assert drafted([1, 2, 9, 1, 2]) == [9, 1, 2, 9]
    assert drafted([1, 9, 1]) == [9, 1, 9, 1]


def test_tokens_are_read_as_they_come() -> None:
    text = [1, 2, 3, 4, 5, 1, 2, 3, 9, 4, 5, 1, 1, 2, 3, 4, 4, 4, 5, 9, 9, 4, 5, 1]
    drafter = PromptLookup()
    for n in range(len(text)):
        assert drafted(text[:n], drafter) == drafted(text[:n])


def test_another_text_begins_anew() -> None:
    drafter = PromptLookup()
    assert drafted([1, 2, 3, 4, 5, 6, 1, 2], drafter) == [3, 4, 5, 6]
    assert drafted([7, 7, 8, 1, 2], drafter) == []
    assert drafted([1, 2, 9, 9, 9, 9, 9, 1, 2, 3, 1, 2], drafter) == [3, 1, 2, 3]


def test_match_lengths_are_sources_of_their_own() -> None:
    asked: list[Source] = []

    def limit(source: Source) -> int:
        asked.append(source)
        return 0 if "3" in source.name else 2

    drafter = PromptLookup()
    assert drafter.draft([1, 2, 3, 4, 9, 1, 2, 3], limit) is None
    assert drafter.draft([1, 2, 3, 4, 9, 1, 2, 3, 8, 3], limit) is not None
    assert len(set(asked)) == len(asked) == 2


def test_a_token_costs_little_in_a_long_text() -> None:
    drafter = PromptLookup()
    text = array.array("i", [i * i % 50021 for i in range(128_000)])
    started = time.process_time()
    for i in range(500):
        text.append(i)  # it cannot grow while a view of it is held
        drafter.draft(text, any_length)
    assert (time.process_time() - started) / 500 < 2e-3  # far below what reading the text in Python takes


def test_the_first_drafter_that_has_something_is_taken() -> None:
    text = [1, 2, 3, 4, 5, 1, 2]
    empty, full = PromptLookup(), PromptLookup()

    class Nothing:
        def draft(self, *_: object) -> None:
            return None

    draft = Chain([Nothing(), full, empty]).draft(text, any_length)
    assert draft is not None
    assert draft.tokens == [3, 4, 5, 1]
    assert Chain([]).draft(text, any_length) is None
    assert Chain([Nothing()]).draft(text, any_length) is None
