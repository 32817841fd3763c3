"""Grounded answers in the terminal: colors, numbers, and documents with the passages that were cited."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from commandr_gguf import Citation, GroundedAnswer, parse_actions, parse_grounded_answer
from commandr_gguf.cli.citations import answer_text, document_texts, print_grounded
from commandr_gguf.cli.terminal import make_console, print_text, printable

DOCUMENTS = [
    {"title": "Harrow Library", "text": "The Harrow Library was founded in 1921."},
    {"title": "Velmora Bridge", "text": "The bridge was opened in 1987, in room 87."},
]


def shown(answer: GroundedAnswer, documents: Sequence[dict[str, str]], *, width: int = 0) -> str:
    """What is printed; with a width as to a terminal of so many columns, else as to a file."""
    out = io.StringIO()
    terminal = width > 0
    console = Console(
        file=out, width=width or 80, force_terminal=terminal, color_system="standard" if terminal else None, _environ={}
    )
    print_grounded(console, answer, documents)
    return out.getvalue()


def test_plain_output() -> None:
    answer = parse_grounded_answer("Grounded answer: It was opened in <co: 1>1987</co: 1>. " + "It is old. " * 20)
    text = shown(answer, DOCUMENTS)
    assert text.split("\n") == [
        "    It was opened in 1987[2]. " + ("It is old. " * 20).strip(),
        "",
        "    [1] Harrow Library  not cited",
        "        The Harrow Library was founded in 1921.",
        "    [2] Velmora Bridge",
        "        The bridge was opened in 1987, in room 87.",
        "",
    ]


def test_output_to_a_terminal() -> None:
    answer = parse_grounded_answer("Grounded answer: It was opened in <co: 1>1987</co: 1> and never closed since.")
    lines = shown(answer, DOCUMENTS, width=40).split("\n")
    assert lines[0] == "    It was opened in \x1b[32m1987\x1b[0m\x1b[1;32m[2]\x1b[0m and never"
    assert lines[1] == "    closed since."
    assert lines[3] == "    \x1b[2m[1] Harrow Library\x1b[0m\x1b[2;3m  not cited\x1b[0m"
    assert lines[4] == "        \x1b[2mThe Harrow Library was founded\x1b[0m"
    assert lines[6] == "    \x1b[1;32m[2]\x1b[0m Velmora Bridge"
    assert lines[7] == "        The bridge was opened in \x1b[1;32m1987\x1b[0m,"
    assert lines[8] == "        in room 87."


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("nothing cited", "nothing cited"),
        ("<co: 0>a</co: 0>", "a[1]"),
        ("<co: 2,0>a</co: 2,0> b", "a[1][3] b"),
        ("<co: 0>a<co: 1>b</co: 1></co: 0>.", "ab[1][2]."),
        ("<co: 0><co: 0>a</co: 0> b</co: 0>.", "a[1] b[1]."),
        ("<co: 0>a <co: 1>b</co: 0> c</co: 1>", "a b[1] c[2]"),
    ],
)
def test_numbers_stand_behind_the_spans(reply: str, text: str) -> None:
    assert answer_text(parse_grounded_answer(reply)).plain == text


@given(st.text(), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.integers(0, 4)), max_size=5))
def test_without_its_numbers_the_answer_is_the_visible_text(text: str, places: list[tuple[int, int, int]]) -> None:
    text = text.replace("[", "(")
    citations = [
        Citation(start, min(start + length, len(text)), text[start : start + length], (document,))
        for start, length, document in places
        if start < len(text)
    ]
    result = answer_text(GroundedAnswer(text, citations)).plain
    for number in range(1, 6):
        result = result.replace(f"[{number}]", "")
    assert result == printable(text)


def test_only_whole_words_are_marked_in_documents() -> None:
    def marked(passage: str, text: str) -> list[str]:
        _, body = document_texts(0, {"text": text}, [passage], cited=True)
        return [body.plain[span.start : span.end] for span in body.spans if "bold" in str(span.style)]

    assert marked("87", "It was opened in 1987, in room 87.") == ["87"]
    assert marked("$4.50", "It costs $4.50.") == ["$4.50"]
    assert marked("a.c", "abc a.c") == ["a.c"]
    assert marked("Tarn", "Tarn and Tarn") == ["Tarn", "Tarn"]
    assert marked("steel", "It is iron.") == []


def test_long_documents_are_cut_around_what_is_cited() -> None:
    long = "before " * 300 + "opened in 1987 " + "after " * 300
    _, body = document_texts(0, {"text": long}, ["1987"], cited=True)
    assert "1987" in body.plain
    assert len(body.plain) < 620
    assert body.plain.startswith("…")
    assert body.plain.endswith("…")
    _, uncited = document_texts(0, {"text": long}, [], cited=False)
    assert uncited.plain.startswith("before before")
    assert len(uncited.plain) < 620


def test_documents_of_other_keys() -> None:
    texts = [text.plain for text in document_texts(2, {"snippet": "a\tb"}, [], cited=True)]
    assert texts == ["[3]", "a b"]
    texts = [text.plain for text in document_texts(0, {"title": "T", "date": "May", "text": "a"}, [], cited=True)]
    assert texts == ["[1] T", "date: May", "text: a"]


def test_documents_that_were_not_given() -> None:
    answer = parse_grounded_answer("Grounded answer: <co: 7>a</co: 7> <co: 0>b</co: 0>")
    assert shown(answer, DOCUMENTS[:1]).endswith("    [8]: the model cites what it was not given\n")


UNPRINTABLE = ["\x00", "\x1b", "\x7f", "\x9b", "\ud800", "\udfff", "\u202a", "\u202e", "\u2066", "\u2069"]


@pytest.mark.parametrize("character", UNPRINTABLE)
def test_characters_that_no_terminal_should_get(character: str) -> None:
    assert printable(f"a{character}b") == "a\N{REPLACEMENT CHARACTER}b"


def test_other_characters_stay() -> None:
    text = "a b\nc ÄÖ 漢字 \N{NO-BREAK SPACE}\u200d\u2029\U0001f600 אב"
    assert printable(text) == text
    assert printable("a\tb\rc") == "a b c"


def test_what_a_model_says_can_be_encoded() -> None:
    (call,) = parse_actions(r'Action: [{"tool_name": "a", "parameters": {"x": "\ud800 \u202e", "\udfff": 1}}]')
    out = io.BytesIO()
    console = Console(file=io.TextIOWrapper(out, encoding="utf-8", write_through=True), width=80)
    print_text(console, str(call))
    assert out.getvalue().decode() == '    a(x="\ufffd \ufffd", \ufffd=1)\n'


def test_no_color(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    for variable, colored in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", variable)
        print_text(make_console(), "text", "bold red")
        assert ("\x1b" in capsys.readouterr().out) == colored
