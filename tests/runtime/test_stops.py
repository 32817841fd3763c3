"""Stop strings over any cut of the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandr_gguf import ArgumentError
from commandr_gguf.stops import StopStrings

LETTERS = st.text("ab", max_size=12)


@given(st.lists(LETTERS), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_ends_at_the_first_stop_string_however_it_is_cut(parts: list[str], stops: list[str]) -> None:
    text = "".join(parts)
    # One that is complete later may begin earlier, but what comes later cannot be waited for.
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    watcher = StopStrings(stops)
    passed = "".join(map(watcher.push, parts)) + watcher.flush()
    if not ends:
        assert passed == text
        assert watcher.found is None
    else:
        assert watcher.found in stops
        assert text.startswith(passed + watcher.found)
        assert not any(stop in passed for stop in stops)
        assert len(passed) <= min(start for _, start in ends) or min(ends)[0] <= len(passed) + len(watcher.found)


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
