"""One file of each format: its text, title and headings, and what is wrong with it."""

from __future__ import annotations

import logging
import re

import pytest

from commandr_gguf import FormatError, UnsupportedError
from commandr_gguf.reading.html_file import read_html
from commandr_gguf.reading.markdown_file import read_markdown
from commandr_gguf.reading.pdf_file import read_pdf
from commandr_gguf.reading.text_file import decode, read_text
from pdf_files import pdf

# ---- encodings

SAMPLES = {
    "cp1252": "Le café est fermé à Noël, où êtes-vous ? Ça va très bien, “merci”.",
    "cp1251": "Привет, как дела? Сегодня хорошая погода в Москве.",
    "koi8_r": "Привет, как дела? Сегодня хорошая погода в Москве.",
    "cp1253": "Καλημέρα σας, τι κάνετε σήμερα;",
    "shift_jis": "これは日本語の文章です。今日は天気がいいですね。",
    "euc_jp": "これは日本語の文章です。今日は天気がいいですね。",
    "gb18030": "今天天气很好，我们去公园散步吧。",
    "big5": "今天天氣很好，我們去公園散步吧。",
    "euc_kr": "안녕하세요. 오늘 날씨가 좋네요.",
}


@pytest.mark.parametrize("encoding", SAMPLES)
def test_legacy_encodings_are_told_apart(encoding: str) -> None:
    text = SAMPLES[encoding] * 5
    assert decode("a.txt", text.encode(encoding)) == text


@pytest.mark.parametrize("text", ["naïve", "El Niño", "ÜBERGRÖSSE ÄÖÜ", "one – two’s", "50 °C"])
def test_an_accent_or_two_are_latin_1(text: str) -> None:
    assert decode("a.txt", text.encode("cp1252")) == text
    assert decode("a.txt", b"\x81\x90 caf\xe9 and so on") == "\x81\x90 café and so on"  # no code page has 81


@pytest.mark.parametrize("text", ["plain words", "naïve “quotes”", "Привет, мир", "港口的灯塔", "👩‍🚀 up"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_with_and_without_byte_order_mark(text: str, encoding: str) -> None:
    assert decode("a.txt", text.encode(encoding)) == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(encoding: str) -> None:
    text = "A lighthouse of stone — café."
    assert decode("a.txt", text.encode(encoding)) == text


def test_ends_of_lines_become_one() -> None:
    assert read_text("a.txt", b"one\r\ntwo\rthree\n").text == "one\ntwo\nthree\n"


@pytest.mark.parametrize("data", [bytes(range(256)) * 20, b"\x7fELF\x02\x01\x00\x00words", b"\x01\x02\x03\x04 words"])
def test_binary_files_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"a\.txt: is a binary file"):
        read_text("a.txt", data)


@pytest.mark.parametrize("data", [b"", b" \n\t", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_empty_files_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"a\.txt: is empty"):
        read_text("a.txt", data)


# ---- Markdown

MARKDOWN = """---
title: The Guide
---

First words.

# Setup `now`

Before *all*.

```
# not a heading
```

Underlined
----------

> ## quoted

   ## Spaced ##

### Deep

#

# Last
"""


def test_markdown_headings_and_their_paths() -> None:
    content = read_markdown("a.md", MARKDOWN.encode())
    assert content.text == MARKDOWN
    assert content.title == "The Guide"
    assert [mark.path for mark in content.marks] == [
        ("Setup now",),
        ("Setup now", "Underlined"),
        ("Setup now", "Spaced"),
        ("Setup now", "Spaced", "Deep"),
        ("Last",),
    ]
    lines = [MARKDOWN[mark.offset :].split("\n", maxsplit=1)[0] for mark in content.marks]
    assert lines == ["# Setup `now`", "Underlined", "## Spaced ##", "### Deep", "# Last"]
    assert MARKDOWN[content.marks[1].body :].lstrip().startswith("> ## quoted")


@pytest.mark.parametrize("front", ["---\n: [\n---\n", "---\n- a\n---\n", "---\ntitle: 3\n---\n", "---\n\n---\n"])
def test_front_matter_of_any_kind_is_text(front: str) -> None:
    content = read_markdown("a.md", (front + "# One\n\ntext").encode())
    assert (content.title, content.text) == ("", front + "# One\n\ntext")
    assert [mark.path for mark in content.marks] == [("One",)]


# ---- HTML

HTML = """<!DOCTYPE html><html><head><title>Harbors
 of the north</title><style>p {color: red}</style></head><body><nav><a href="/">Home</a></nav>
<h1>Harbors</h1><p>Some <b>bold</b>, <i>plain</i> and <a href="http://example.org/">linked</a> words.<br>Next line.</p>
<h2>Ships &amp; boats</h2><ul><li>one_two_three</li><li>4 * 5</li></ul>
<table><tr><th>Name</th><th>Year</th></tr><tr><td>Lotte</td><td>1907</td></tr></table>
<pre>x = 1
  y</pre><script>alert("no")</script><p hidden>secret</p></body></html>"""


def test_html_shows_what_a_reader_sees() -> None:
    content = read_html("a.html", HTML.encode())
    assert content.title == "Harbors of the north"
    assert [mark.path for mark in content.marks] == [("Harbors",), ("Harbors", "Ships & boats")]
    for seen in (
        "Some bold, plain and linked words.",
        "Next line.",
        "* one_two_three",
        "4 * 5",
        "| Lotte | 1907 |",
        "x = 1\n  y",
    ):
        assert seen in content.text
    for unseen in ("color", "Home", "alert", "secret", "example.org", "Harbors\n of"):
        assert unseen not in content.text


def test_only_the_main_part_of_a_page_is_read() -> None:
    page = "<body><header>Banner</header><main><p>The story.</p></main><footer>Imprint</footer></body>"
    assert read_html("a.html", page.encode()).text.strip() == "The story."


@pytest.mark.parametrize("encoding", ["windows-1251", "gb2312", "iso-8859-2"])
def test_html_declares_its_encoding(encoding: str) -> None:
    word = {"windows-1251": "Привет", "gb2312": "灯塔", "iso-8859-2": "Zażółć"}[encoding]
    page = f'<html><head><meta charset="{encoding}"></head><body><p>{word}</p></body></html>'
    assert read_html("a.html", page.encode(encoding)).text.strip() == word


@pytest.mark.parametrize("declared", ["utf-16", "hex", "nonsense", "idna"])
def test_an_encoding_that_cannot_be_is_passed_over(declared: str) -> None:
    page = f'<meta charset="{declared}"><p>caf\u00e9 and cake'.encode("latin-1")
    assert read_html("a.html", page).text.strip() == "café and cake"


def test_html_nested_by_the_thousand_keeps_its_text() -> None:
    page = "<div>" * 5000 + "deep" + "</div>" * 5000 + "<p>shallow</p>"
    assert read_html("a.html", page.encode()).text.split() == ["deep", "shallow"]


def test_a_page_that_shows_nothing_is_refused() -> None:
    with pytest.raises(FormatError, match=r"a\.html: the page shows no text"):
        read_html("a.html", b"<html><head><title>x</title></head><body><script>1</script></body></html>")


# ---- PDF


def test_pdf_text_by_page() -> None:
    content = read_pdf("a.pdf", pdf(["First page.\nSecond line.", "", "Third page."], title="A report"))
    assert content.title == "A report"
    assert content.text.split() == ["First", "page.", "Second", "line.", "Third", "page."]
    assert [mark.page for mark in content.marks] == [1, 3]
    assert content.text[content.marks[1].offset :].startswith("Third")


def test_pdf_without_a_password_to_open_is_read() -> None:
    assert "Open words" in read_pdf("a.pdf", pdf(["Open words"], password="")).text


def test_pdf_that_needs_a_password_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"a\.pdf: is encrypted"):
        read_pdf("a.pdf", pdf(["Secret words"], password="secret"))


def test_pdf_of_pictures_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"a\.pdf: has no text on any"):
        read_pdf("a.pdf", pdf(["", ""]))


def test_damage_that_does_no_harm_is_not_told_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    damaged = re.sub(rb"startxref\s+\d+", b"startxref\n7", pdf(["Words."]))
    assert "Words." in read_pdf("a.pdf", damaged).text
    assert caplog.messages != []  # who asks for logs has them
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert "Words." in read_pdf("a.pdf", damaged).text
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("data", [b"words", b"%PDF-1.7\n", pdf(["words"])[:150], b"%PDF-1.4\n%%EOF\n"])
def test_what_is_no_pdf_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"a\.pdf: is not a PDF file"):
        read_pdf("a.pdf", data)
