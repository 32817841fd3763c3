"""Web pages: what a reader of the page sees, as Markdown."""

from __future__ import annotations

from typing import Any

from bs4 import BeautifulSoup
from bs4.dammit import EncodingDetector
from markdownify import MarkdownConverter

from commandr_gguf.errors import FormatError
from commandr_gguf.reading.content import Content
from commandr_gguf.reading.markdown_file import markdown_content
from commandr_gguf.reading.text_file import decode

_UNSEEN = ["script", "style", "template", "noscript", "svg", "iframe", "nav", "button", "select", "title"]
_PLAIN = ["a", "img", "b", "strong", "em", "i", "u", "s", "sub", "sup", "mark", "small", "abbr"]


def read_html(name: str, data: bytes) -> Content:
    """What a page shows in its main part. Raises FormatError when that is nothing, or the file is binary."""
    declared = EncodingDetector.find_declared_encoding(data, is_html=True)
    if declared and declared.lower().startswith("utf-16"):
        declared = None  # a page in which that can be read as ASCII is not in it
    soup = BeautifulSoup(decode(name, data, declared), "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else ""
    for element in soup.find_all([*_UNSEEN, _hidden]):
        element.decompose()
    root = soup.find("main") or soup.find("body") or soup
    converter = MarkdownConverter(
        heading_style="ATX", strip=_PLAIN, escape_asterisks=False, escape_underscores=False, escape_misc=False
    )
    try:
        text = converter.convert_soup(root)
    except RecursionError:  # elements nested by the thousand; their text is still to be had
        text = root.get_text("\n")
    if not text.strip():
        raise FormatError(f"{name}: the page shows no text")
    return markdown_content(text, title)


def _hidden(element: Any) -> bool:
    return bool(element.has_attr("hidden"))
