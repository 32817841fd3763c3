"""Chunks: nothing lost, nothing twice, within their bounds, cut at the best places."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commandr_gguf import ArgumentError
from commandr_gguf.reading import chunks as chunking
from commandr_gguf.reading.chunks import chunk_spans
from commandr_gguf.reading.content import Content, Mark, chunk_title
from commandr_gguf.reading.markdown_file import markdown_content

WORDS = st.sampled_from(
    [
        "the",
        "harbor",
        "Ships.",
        "end!",
        "(so)",
        "3.14",
        "—",
        "-",
        "|",
        "#",
        "naïve",
        "e\u0301",
        "港の灯台。",
        "สวัสดี",
        "항구에",
        "👩‍🚀",
        "x" * 47,
    ]
)
GAPS = st.sampled_from([" ", " ", " ", "\n", "\n\n", "\n  \n", "\t", "  ", "\f", "", "\n- ", "\u3000", "\u00a0"])


@st.composite
def texts(draw: st.DrawFn, n: int = 900) -> str:
    """Texts of up to some hundred words of several scripts; a short passage repeated, so that they are found fast."""
    passage = draw(st.lists(st.tuples(WORDS, GAPS), max_size=40))
    joined = "".join(word + gap for word, gap in passage)
    return joined * draw(st.integers(1, max(1, n // max(len(passage), 1)))) + draw(st.text(max_size=30))


def count_words(text: str) -> float:
    """The length of a text as chunks are measured."""
    return chunking._atoms(text).weights[-1] / chunking._WORD


def visible(text: str) -> str:
    return "".join(text.split())


def pieces(text: str, **bounds: Any) -> list[str]:
    return [text[start:end] for start, end in chunk_spans(text, **bounds)]


@given(texts())
@settings(max_examples=60)
def test_chunks_are_the_text_without_loss_or_repetition(text: str) -> None:
    chunks = pieces(text)
    assert "".join(map(visible, chunks)) == visible(text)
    spans = chunk_spans(text)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert [chunk.strip() for chunk in chunks] == chunks


@given(texts(), st.sampled_from([(100, 400), (10, 40), (5, 20)]))
@settings(max_examples=60)
def test_every_chunk_is_within_its_bounds_but_for_one_that_is_alone(text: str, bounds: tuple[int, int]) -> None:
    low, high = bounds
    sizes = [count_words(chunk) for chunk in pieces(text, min_words=low, max_words=high)]
    assert all(size <= high + 1e-9 for size in sizes)
    assert len(sizes) <= 1 or all(size >= low - 1e-9 for size in sizes)


@given(st.lists(st.sampled_from(["one", "two", "three.", "Four"]), min_size=1, max_size=500))
@settings(max_examples=30)
def test_words_between_spaces_stay_whole(words: list[str]) -> None:
    text = " ".join(words)
    assert [word for chunk in pieces(text, min_words=10, max_words=40) for word in chunk.split()] == words
    assert count_words(text) == len(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        (" \n\t ", 0),
        ("one two  three", 3),
        ("well-known, isn't it?", 3),
        ("今日は天気がいいですね", 5.5),
        ("สวัสดีครับ", 1.6),  # ten characters, of which two stand on others
        ("안녕하세요 오늘", 2),
        ("x" * 200, 10),
    ],
)
def test_length_is_in_words_or_what_comes_to_the_same(text: str, words: float) -> None:
    assert count_words(text) == pytest.approx(words, abs=0.5)


def sentences(n: int, start: int = 0) -> str:
    return " ".join(f"Sentence number {i} has six words." for i in range(start, start + n))


def test_paragraphs_are_kept_whole_where_they_can() -> None:
    paragraphs = [sentences(25, 100 * i) for i in range(6)]  # 150 words each
    assert all(chunk.split("\n\n") for chunk in pieces("\n\n".join(paragraphs)))
    for chunk in pieces("\n\n".join(paragraphs)):
        assert all(part in paragraphs for part in chunk.split("\n\n"))


def test_sentences_are_kept_whole_in_a_long_paragraph() -> None:
    chunks = pieces(sentences(300))
    assert len(chunks) > 3
    assert all(chunk.startswith("Sentence") and chunk.endswith("words.") for chunk in chunks)


def test_chinese_is_cut_after_its_full_stops() -> None:
    chunks = pieces("港口有一座古老的石头灯塔。" * 200)
    assert len(chunks) > 2
    assert all(chunk.endswith("。") for chunk in chunks)


def test_an_accent_stays_with_its_letter() -> None:
    chunks = pieces("e\u0302\u0301" * 5000)
    assert len(chunks) > 1
    assert all(chunk.startswith("e") for chunk in chunks)


def test_a_heading_stays_with_what_follows_it() -> None:
    parts = [f"## Part {i}\n\n{sentences(20 + 3 * i, 100 * i)}" for i in range(12)]
    content = markdown_content("\n\n".join(parts))
    for start, end in chunk_spans(content.text, content.marks):
        chunk = content.text[start:end]
        assert chunk.startswith("## Part")
        assert not chunk.rstrip().splitlines()[-1].startswith("##")


def test_a_chunk_has_the_title_of_the_headings_that_all_of_it_stands_under() -> None:
    text = "intro\n\n# Guide\n\n## Install\n\none\n\n### Linux\n\ntwo\n\n## Use\n\nthree\n"
    content = markdown_content(text)

    def title(first: str, last: str) -> str:
        return chunk_title(content, text.index(first), text.index(last) + 1, "guide.md")

    assert title("intro", "three") == "guide.md"
    assert title("# Guide", "three") == "Guide"
    assert title("## Install", "two") == "Guide > Install"
    assert title("two", "two") == "Guide > Install > Linux"
    assert title("two", "three") == "Guide"
    assert title("three", "three") == "Guide > Use"


def test_pages_are_named_in_the_title() -> None:
    content = Content("aa bb cc", marks=[Mark(0, 0, page=1), Mark(3, 3, page=2), Mark(6, 6, page=5)])
    assert chunk_title(content, 0, 2, "a.pdf") == "a.pdf, page 1"
    assert chunk_title(content, 3, 8, "a.pdf") == "a.pdf, pages 2-5"


@pytest.mark.parametrize("bounds", [{"min_words": 0}, {"max_words": 199}, {"min_words": 300}])
def test_bounds_that_leave_no_choice_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="_words"):
        chunk_spans("text", **bounds)
