"""Markdown files: the text as it is, and its headings."""

from __future__ import annotations

import itertools
import re

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from commandr_gguf.reading.content import Content, Mark
from commandr_gguf.reading.text_file import decode

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


def read_markdown(name: str, data: bytes) -> Content:
    """A Markdown file. Raises FormatError when it is binary or holds nothing."""
    return markdown_content(decode(name, data))


def markdown_content(text: str, title: str = "") -> Content:
    """The headings of a Markdown text. A title in its front matter goes before `title`."""
    front = _FRONT_MATTER.match(text)
    start = front.end() if front else 0
    return Content(text, _front_title(front[1]) or title if front else title, _headings(text, start))


def _headings(text: str, start: int) -> list[Mark]:
    line_starts = list(itertools.accumulate((len(line) + 1 for line in text[start:].split("\n")), initial=start))
    marks: list[Mark] = []
    outer: list[tuple[int, str]] = []
    tokens = MarkdownIt("commonmark").parse(text[start:])
    for token, inline in itertools.pairwise(tokens):
        if token.type != "heading_open" or token.level > 0 or token.map is None:
            continue
        level, heading = int(token.tag[1:]), _plain(inline)
        if not heading:
            continue
        outer = [(other, name) for other, name in outer if other < level] + [(level, heading)]
        offset = line_starts[token.map[0]]
        while text[offset] == " ":
            offset += 1
        body = min(line_starts[token.map[1]], len(text))
        marks.append(Mark(offset, body, tuple(name for _, name in outer)))
    return marks


def _plain(inline: Token) -> str:
    """A heading without its markup."""
    pieces = [child.content or " " for child in inline.children or [] if not child.hidden]
    return " ".join("".join(pieces).split())


def _front_title(front: str) -> str:
    try:
        values = yaml.safe_load(front)
    except (yaml.YAMLError, ValueError):
        return ""  # it is part of the text anyway
    title = values.get("title") if isinstance(values, dict) else None
    return " ".join(title.split()) if isinstance(title, str) else ""
