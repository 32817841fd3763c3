"""Stop strings over any cut of the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandr_gguf import ArgumentError
from commandr_gguf.stops import StopStrings

LETTERS = st.text("ab", max_size=12)


@given(st.lists(LETTERS), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_stop_string_that_is_complete_first_ends_the_text_however_it_is_cut(
    parts: list[str], stops: list[str]
) -> None:
    text = "".join(parts)
    ends = [(text.index(stop) + len(stop), text.index(stop), stop) for stop in stops if stop in text]
    watcher = StopStrings(stops)
    passed = "".join(map(watcher.push, parts)) + watcher.flush()
    if not ends:
        assert (passed, watcher.found) == (text, None)
    else:
        _, start, found = min(ends)
        assert (passed, watcher.found) == (text[:start], found)


def test_nothing_is_held_back_longer_than_needed() -> None:
    watcher = StopStrings(["</co>", "\n\n"])
    assert [watcher.push(part) for part in ("a<", "b</c", "d\n", "e", "</co", ">x")] == [
        "a",
        "<b",
        "</cd",
        "\ne",
        "",
        "",
    ]
    assert watcher.found == "</co>"
    assert watcher.push("more") == watcher.flush() == ""


def test_one_string_may_stand_alone() -> None:
    assert StopStrings("ab").push("xaby") == "x"


@pytest.mark.parametrize("stop", [[""], ["a", ""], [1]])
def test_what_is_no_stop_string_is_refused(stop: object) -> None:
    with pytest.raises(ArgumentError, match="stop must be strings"):
        StopStrings(stop)  # type: ignore[arg-type]
