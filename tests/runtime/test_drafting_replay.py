"""The grounded answer, drafted from the plain one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import data
import models
from commandr_gguf import Tokenizer
from commandr_gguf.drafting.drafter import Source
from commandr_gguf.drafting.replay import AnswerReplay

HEAD = "Relevant Documents: 0,1\nCited Documents: 1\nAnswer:"
ANSWER = " The Velmora Bridge was opened in 1987, and Ada Norn wrote “Über uns” there. It spans 1987 m."
MARK = "\nGrounded answer:"
TAGGED = (
    " The <co: 1>Velmora Bridge</co: 1> was opened in <co: 0,1>1987</co: 0,1>, and <co: 1>Ada Norn</co: 1> wrote"
    " <co: 1>“Über uns” there</co: 1>. It <co: 0>spans 1987 m</co: 0>."
)
REPLY = HEAD + ANSWER + MARK
PROMPT = [5, 9, 9]


@pytest.fixture(scope="module", params=["tiny", pytest.param("real", marks=pytest.mark.data)])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.from_gguf(models.gguf("gqa") if request.param == "tiny" else data.llama_cpp_vocab())


def any_length(_source: Source) -> int:
    return 1000


def drafted(tokenizer: Tokenizer, reply: Sequence[int]) -> list[int]:
    """What is drafted behind a reply."""
    draft = AnswerReplay(tokenizer, len(PROMPT)).draft([*PROMPT, *reply], any_length)
    return [] if draft is None else draft.tokens


def drafted_text(tokenizer: Tokenizer, reply: str) -> str:
    return tokenizer.decode(drafted(tokenizer, tokenizer.encode(reply)))


def test_the_answer_comes_again(tokenizer: Tokenizer) -> None:
    assert drafted_text(tokenizer, REPLY) == ANSWER
    assert drafted_text(tokenizer, REPLY + ANSWER[:31]) == ANSWER[31:]


@pytest.mark.parametrize("mark", ["\n**Grounded answer:**", "\n\n grounded Answer :"])
def test_marks_may_be_written_in_other_ways(tokenizer: Tokenizer, mark: str) -> None:
    assert drafted_text(tokenizer, HEAD.replace("Answer:", "**Answer:**") + ANSWER + mark) == ANSWER


def test_words_behind_a_tag_are_put_into_tokens_anew(tokenizer: Tokenizer) -> None:
    whole = tokenizer.encode(REPLY + TAGGED)
    for text, words in ((" The <co: 1>", "Velmora Bridge"), (TAGGED[: TAGGED.index("“")], "“Über uns” there")):
        begun = tokenizer.encode(REPLY + text)
        assert whole[: len(begun)] == begun
        expected = tokenizer.encode(REPLY + text + words)[len(begun) :]
        assert drafted(tokenizer, begun)[: len(expected)] == expected


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (" The <", "co: 1>Velmora Bridge was"),  # of the documents that were announced
        (" The <co", ": 1>Velmora Bridge was"),
        (" The <co: 1>Velmora Bridge</", "co: 1> was opened"),
        (" The <co: 1>Velmora Bridge<", "/co: 1> was opened"),
        (" The <co: 0,1>Velmora Bridge</co: 0", ",1> was opened"),
        (" The <co: 0,1>Velmora Bridge</co: 0,1> was <", "co: 0,1>opened in"),
        (TAGGED[:-8], "/co: 0>."),
        (TAGGED[:-7], "co: 0>."),
        (" The <co: 1>" + ANSWER[5:], "</co: 1>"),  # nothing is left but to close it
    ],
)
def test_a_tag_that_has_begun_is_completed(tokenizer: Tokenizer, begun: str, rest: str) -> None:
    assert drafted_text(tokenizer, REPLY + begun).startswith(rest)


def test_small_differences_are_passed_over(tokenizer: Tokenizer) -> None:
    changed = " The old Velmora Bridge was <co: 1>opened in the year 1987"
    assert drafted_text(tokenizer, REPLY + changed) == ANSWER[ANSWER.index(",") :]
    left_out = " The Velmora Bridge was opened in 1987. It"
    assert drafted_text(tokenizer, REPLY + left_out) == " spans 1987 m."


@pytest.mark.parametrize(
    "reply",
    [
        HEAD + ANSWER,
        "Relevant Documents: None\nCited Documents: None\nGrounded answer: The",
        REPLY + ANSWER,
        REPLY + TAGGED,
        REPLY + TAGGED + " And more, which",
        REPLY + " Something else entirely",
        "The Velmora Bridge",
    ],
)
def test_nothing_is_drafted_where_nothing_is_known(tokenizer: Tokenizer, reply: str) -> None:
    assert drafted(tokenizer, tokenizer.encode(reply)) == []


def test_the_prompt_is_not_read(tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode(REPLY)
    draft = AnswerReplay(tokenizer, len(prompt)).draft([*prompt, *tokenizer.encode(" The")], any_length)
    assert draft is None


def test_another_reply_begins_anew(tokenizer: Tokenizer) -> None:
    drafter = AnswerReplay(tokenizer, len(PROMPT))
    for reply in (REPLY, REPLY.replace("Velmora", "Tarn"), "Answer: x y" + MARK):
        draft = drafter.draft([*PROMPT, *tokenizer.encode(reply)], any_length)
        assert draft is not None
        assert tokenizer.decode(draft.tokens) == reply.removeprefix(HEAD).removeprefix("Answer:").removesuffix(MARK)


@pytest.mark.parametrize("n_max", [1, 3, 14])
def test_a_tagged_answer_takes_few_evaluations(tokenizer: Tokenizer, n_max: int) -> None:
    """Wherever a draft is cut, it goes on: what surprises is where ten tags begin, and which documents are new."""
    text = [*PROMPT, *tokenizer.encode(REPLY + TAGGED)]
    n = len(PROMPT) + len(tokenizer.encode(REPLY))
    n_tokens = len(text) - n
    drafter = AnswerReplay(tokenizer, len(PROMPT))
    n_evaluations = n_wrong = 0
    while n < len(text):
        draft = drafter.draft(text[:n], lambda _source: n_max)
        guess = [] if draft is None else draft.tokens
        assert len(guess) <= n_max
        right = 0
        while right < len(guess) and n + right < len(text) and guess[right] == text[n + right]:
            right += 1
        n_wrong += right < len(guess)
        n += right + 1
        n_evaluations += 1
    assert n_wrong <= 17
    assert n_evaluations <= n_tokens / (n_max + 1) + 17
