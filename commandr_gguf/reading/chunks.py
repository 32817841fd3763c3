"""Cutting text into chunks of some hundred words, at the best places there are.

Libraries that split text keep chunks below a limit; none that we know also keeps them above one, and a chunk of a
heading and six words is of no use to a model that is to answer from it.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.reading.content import Mark

# Weights are in tenths of a word. Chinese and Japanese need about two characters for what is a word elsewhere, the
# scripts of South-East Asia, which put no spaces between words either, about five.
_WORD, _CJK_CHARACTER, _SEA_CHARACTER, _NO_LETTER = 10, 5, 2, 1
_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_SEA = "\u0e00-\u109f\u1780-\u17ff\u1980-\u19ff"
_ACCENT = "\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff\ufe00-\ufe0f"
# What goes on for more than 20 characters without a space is no word.
_ATOM = re.compile(rf"([{_CJK}])|([{_SEA}])|[^\s{_CJK}{_SEA}]{{1,20}}[{_ACCENT}]{{0,20}}")
_LONGEST_ATOM = 3 * _WORD

_SENTENCE_END = re.compile(r"""([.!?\u2026\u061f\u0964\u0589])[)\]"'\u2019\u201d\u00bb*_]{0,4}$""")
_CJK_SENTENCE_END = re.compile(r"[\u3002\uff01\uff1f\uff61][\u300d\u300f\uff09\u3011\u201d]{0,2}$")
_BLANK_LINE = re.compile(r"\n\s*\n|\f")
_LIST_ITEM = re.compile(r"[-*+\u2022|]|\d{1,3}[.)]")

# How good a place for a cut is.
_INSIDE_RUN, _SPACE, _LINE, _SENTENCE, _PARAGRAPH, _SECTION = range(6)


@dataclass(frozen=True)
class _Atoms:
    """The smallest pieces of a text, between which it may be cut."""

    starts: list[int]
    ends: list[int]
    weights: list[int]
    """Of all atoms before, so that there is one more than atoms."""


def chunk_spans(
    text: str, marks: Sequence[Mark] = (), *, min_words: int = 100, max_words: int = 400
) -> list[tuple[int, int]]:
    """Where the chunks of a text start and end, in characters; between them is nothing but white space.

    Every chunk has min_words to max_words, but for a text that is shorter than min_words. Among the places that allow
    this a heading is taken before the end of a paragraph, that before the end of a sentence, of a line and of a word.

    Args:
        text: any.
        marks: where sections or pages begin. A heading stays with what follows it.
        min_words: at least 1.
        max_words: at least twice as many.

    Raises:
        ArgumentError: the numbers are out of range.
    """
    shortest = integer("min_words", min_words, 1) * _WORD
    longest = integer("max_words", max_words) * _WORD
    if longest < 2 * shortest:
        raise ArgumentError(f"max_words must be at least twice min_words, not {max_words} for {min_words}")
    atoms = _atoms(text)
    sections = {mark.offset: _PARAGRAPH if mark.page else _SECTION for mark in marks}
    headings = [(mark.offset, mark.body) for mark in marks if mark.body > mark.offset]
    n, start, spans = len(atoms.starts), 0, []
    while start < n:
        left = atoms.weights[n] - atoms.weights[start]
        end = n
        if left > longest:
            end = _best_cut(text, atoms, sections, headings, start, shortest, min(longest, left - shortest))
        spans.append((atoms.starts[start], atoms.ends[end - 1]))
        start = end
    return spans


def _best_cut(
    text: str,
    atoms: _Atoms,
    sections: dict[int, int],
    headings: list[tuple[int, int]],
    start: int,
    shortest: int,
    longest: int,
) -> int:
    """The first atom of the next chunk, so that this one weighs shortest..longest where atoms are small enough."""
    base = atoms.weights[start]
    last = bisect.bisect_right(atoms.weights, base + longest) - 1
    first = min(bisect.bisect_left(atoms.weights, base + shortest), last)
    first, last = max(first, start + 1), max(last, start + 1)
    middle = base + (shortest + longest) / 2
    return max(
        range(first, last + 1),
        key=lambda i: (_quality(text, atoms, sections, headings, i), -abs(atoms.weights[i] - middle)),
    )


def _quality(text: str, atoms: _Atoms, sections: dict[int, int], headings: list[tuple[int, int]], i: int) -> int:
    """How good a cut before atom i is."""
    end, start = atoms.ends[i - 1], atoms.starts[i]
    gap = text[end:start]
    nearest = bisect.bisect_left(headings, (start, 0)) - 1
    if nearest >= 0 and end <= headings[nearest][1]:
        return _SPACE if gap else _INSIDE_RUN  # it would part a heading from what follows, or within
    if start in sections:
        return sections[start]
    before = text[max(end - 6, 0) : end]
    if _BLANK_LINE.search(gap):
        quality = _PARAGRAPH
    elif _CJK_SENTENCE_END.search(before) or (gap and _SENTENCE_END.search(before) and not text[start].islower()):
        quality = _SENTENCE
    elif "\n" in gap:
        quality = _SENTENCE if _LIST_ITEM.match(text, start) else _LINE
    else:
        quality = _SPACE if gap else _INSIDE_RUN
    return quality


def _atoms(text: str) -> _Atoms:
    starts: list[int] = []
    ends: list[int] = []
    weights = [0]
    total = 0
    for match in _ATOM.finditer(text):
        start, end = match.span()
        if match[1]:
            weight = _CJK_CHARACTER
        elif match[2]:
            weight = _SEA_CHARACTER
        else:
            weight = _WORD if any(map(str.isalnum, match[0])) else _NO_LETTER
        total += weight
        joined = ends and start == ends[-1] and _stays_with_what_is_before(text[start])
        if joined and total - weights[-2] <= _LONGEST_ATOM:
            ends[-1], weights[-1] = end, total
        else:
            starts.append(start)
            ends.append(end)
            weights.append(total)
    return _Atoms(starts, ends, weights)


def _stays_with_what_is_before(character: str) -> bool:
    """Whether it is an accent, a joiner or closing punctuation."""
    return unicodedata.category(character) in {"Mn", "Mc", "Me", "Cf", "Pe", "Pf", "Po"}
