"""Constraints: which tokens a grammar allows, on a vocabulary small enough to try every one of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import constraints
import data
from commandr_gguf import ArgumentError, Sampler, SamplingParams, Tokenizer
from commandr_gguf.constraint import Constraint, ConstraintEngine
from commandr_gguf.errors import UnsupportedError
from tiny_tokenizer import byte_characters

TOKENIZER = constraints.tokenizer("demo")
N_VOCAB = len(TOKENIZER)


def start(grammar: str, text: str = "") -> Constraint:
    constraint = constraints.engine("demo").constraint(grammar)
    for token in TOKENIZER.encode(text):
        constraint.accept(token)
    return constraint


def texts(constraint: Constraint) -> set[bytes]:
    may = constraints.allowed(constraint.mask(), N_VOCAB)
    return {TOKENIZER.token_bytes(int(token)) for token in np.flatnonzero(may)}


def test_the_mask_allows_the_tokens_that_fit_and_no_other() -> None:
    expected = {b"a", b"b", b"ab", b"ba", b"aa", b"bb"} & {TOKENIZER.token_bytes(i) for i in range(N_VOCAB)}
    found = texts(start("start: /[ab]{1,2}/ /[0-9]/"))
    assert expected <= found
    assert all(set(text) <= set(b"ab0123456789") for text in found)


def test_the_mask_is_what_the_sampler_takes() -> None:
    constraint = start("start: /[0-9]+/")
    with_mask = Sampler(N_VOCAB, SamplingParams(temperature=0.0))
    logits = np.linspace(0, 1, N_VOCAB, dtype=np.float32)
    token = with_mask.sample(logits, mask=constraint.mask())
    assert TOKENIZER.token_bytes(token) == max(texts(constraint), key=lambda text: TOKENIZER.encode(text.decode()))


def test_control_tokens_are_allowed_by_no_text() -> None:
    for grammar in ("start: /(?s:.)*/", f"start: {json.dumps('<|END_OF_TURN_TOKEN|>')}"):
        may = constraints.allowed(start(grammar).mask(), N_VOCAB)
        assert {int(token) for token in np.flatnonzero(may) if TOKENIZER.is_special(int(token))} <= set(
            TOKENIZER.end_of_generation
        )


def test_generations_may_end_where_the_grammar_is_satisfied_only() -> None:
    constraint = start('start: "ab" /[0-9]+/')
    ends = sorted(TOKENIZER.end_of_generation)
    for text in ("", "ab", "ab1"):
        may = constraints.allowed(start('start: "ab" /[0-9]+/', text).mask(), N_VOCAB)
        assert set(may[ends]) == {text == "ab1"}, text
    with pytest.raises(ArgumentError, match="not allowed here"):
        constraint.accept(ends[0])


def test_a_finished_constraint_allows_ends_alone() -> None:
    constraint = start('start: "abc"', "abc")
    assert constraint.done
    assert constraint.forced() == []
    assert set(np.flatnonzero(constraints.allowed(constraint.mask(), N_VOCAB))) == set(TOKENIZER.end_of_generation)
    constraint = start("start: /a+/", "a")
    before = constraint.done
    constraint.accept(min(TOKENIZER.end_of_generation))
    assert (before, constraint.done) == (False, True)
    with pytest.raises(ArgumentError, match="not allowed here"):
        constraint.accept(TOKENIZER.encode("a")[0])


def test_a_refused_token_changes_nothing() -> None:
    constraint = start("start: /[a-z]+/ /[0-9]/")
    before = constraint.mask().copy()
    for token in (*TOKENIZER.encode("!"), TOKENIZER.special_ids["<BOS_TOKEN>"], min(TOKENIZER.end_of_generation)):
        with pytest.raises(ArgumentError, match=f"token {token} is not allowed here by the grammar"):
            constraint.accept(token)
    assert np.array_equal(constraint.mask(), before)
    with pytest.raises(ArgumentError, match=f"token must be 0 to {N_VOCAB - 1}"):
        constraint.accept(N_VOCAB)


def test_allowed_tokens_are_counted_without_being_accepted() -> None:
    constraint = start('start: "abc" /[0-9]+/')
    assert constraint.count_allowed(TOKENIZER.encode("abc12x3")) == len(TOKENIZER.encode("abc12"))
    assert constraint.count_allowed([]) == 0
    assert constraint.forced() == TOKENIZER.encode("abc")


@pytest.mark.parametrize("text", ["abc 17;", "abc 1x", "", "x", "abc 17;abc"])
def test_what_may_come_along_a_draft_is_what_the_masks_behind_its_tokens_allow(text: str) -> None:
    grammar = 'start: "abc" / [0-9]{1,3};/'
    constraint = start(grammar)
    draft = [*TOKENIZER.encode(text), min(TOKENIZER.end_of_generation)]
    expected, walker = np.zeros(N_VOCAB, bool), start(grammar)
    sizes = []
    for token in [*draft, None]:
        allowed = constraints.allowed(walker.mask(), N_VOCAB)
        expected |= allowed
        sizes.append(allowed.sum())
        if token is None or token in TOKENIZER.end_of_generation or not allowed[token]:
            break
        walker.accept(token)
    before = constraint.mask().copy()
    found = constraint.lookahead(draft, max(sizes))
    assert found is not None
    assert np.array_equal(constraints.allowed(found, N_VOCAB), expected)
    assert constraint.lookahead(draft, max(sizes) - 1) is None
    assert np.array_equal(constraint.mask(), before)
    assert constraints.refused(constraint, TOKENIZER.encode("abc 17;")) is None


@pytest.mark.parametrize(
    "text", ["plain words", "12 of 345", "caf\u00e9 \u4eca\u5929", "line\nline", "e\u0301\u212b x"]
)
def test_forced_tokens_spell_the_text_and_are_those_of_the_masks(text: str) -> None:
    constraint = start(f"start: {json.dumps(text)}")
    forced = constraint.forced()
    assert b"".join(map(TOKENIZER.token_bytes, forced)).decode() == text
    assert constraints.refused(constraint, forced) is None
    assert constraint.done


def test_forced_tokens_are_those_of_the_tokenizer() -> None:
    text = '{"city": "Toronto", "year": 1987}'
    assert start(f"start: {json.dumps(text)}").forced() == TOKENIZER.encode(text)


@pytest.mark.parametrize("text", ["the answer", "them"])
def test_a_token_that_may_be_longer_is_not_forced(text: str) -> None:
    constraint = start('start: "the" (" " /[a-z]+/ | "m")')
    assert len(TOKENIZER.encode("them")) == 1
    assert constraint.forced() == []
    assert constraints.refused(constraint, TOKENIZER.encode(text)) is None


def test_ids_without_a_token_are_never_allowed() -> None:
    tokens = ["<EOS_TOKEN>", *byte_characters(), "[PAD257]", "ab"]
    small = Tokenizer(tokens, ["a b"], token_types=[3, *[1] * 256, 5, 1], eos_id=0)
    constraint = ConstraintEngine(small, 300).constraint("start: /(?s:.)+/")
    mask = constraint.mask()
    assert mask.shape == ((300 + 31) // 32,)
    may = constraints.allowed(mask, 320)
    assert may[258]
    assert not may[257]
    assert not may[259:].any()
    with pytest.raises(ArgumentError, match="token 299 is not allowed"):
        constraint.accept(299)


def test_wrong_vocabularies_are_refused() -> None:
    with pytest.raises(ArgumentError, match="n_vocab must be"):
        ConstraintEngine(TOKENIZER, N_VOCAB - 1)
    with pytest.raises(UnsupportedError, match="no token that ends a generation"):
        ConstraintEngine(Tokenizer(byte_characters(), []), 256)


@pytest.mark.parametrize(
    ("grammar", "text"), [("start: nothing", "nothing"), ("start: /(?=a)/", "invalid regex"), ('start: "', "lexer")]
)
def test_bad_grammars_are_refused(grammar: str, text: str) -> None:
    with pytest.raises(ArgumentError, match=f"^the grammar is not valid: .*{text}"):
        start(grammar)


def test_constraints_of_one_engine_do_not_share_a_state() -> None:
    engine = ConstraintEngine(TOKENIZER, N_VOCAB)

    def walk(text: str) -> bool:
        constraint = engine.constraint(f"start: {json.dumps(text)}")
        return constraints.refused(constraint, TOKENIZER.encode(text)) is None and constraint.done

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(walk, [f"text number {i}" for i in range(8)]))


@pytest.mark.data
def test_the_real_vocabulary_is_allowed_whole() -> None:
    tokenizer = constraints.tokenizer("real")
    may = constraints.allowed(constraints.engine("real").constraint("start: /(?s:.)*/").mask(), len(tokenizer))
    assert len(tokenizer) == data.REAL_VOCAB_SIZE
    for token in map(int, np.flatnonzero(~may)):
        text = tokenizer.token_bytes(token)
        assert tokenizer.is_special(token) or not text or not valid(text)


def valid(text: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
