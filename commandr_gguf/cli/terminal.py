"""Output for people that is plain text where colors are not wanted."""

from __future__ import annotations

import os

from rich.console import Console
from rich.text import Text

from commandr_gguf.printable import printable

__all__ = ["make_console", "print_text", "printable"]

_INDENT = 4


def make_console() -> Console:
    """Standard output, with colors when it is a terminal and $NO_COLOR is not set."""
    return Console(color_system=None if os.environ.get("NO_COLOR") else "auto", highlight=False)


def print_text(console: Console, text: str | Text, style: str = "", *, indent: int = _INDENT) -> None:
    """Print lines behind `indent` spaces, broken at words in a terminal and not at all elsewhere."""
    text = Text(printable(text), style) if isinstance(text, str) else text
    lines = text.wrap(console, max(20, console.width - indent)) if console.is_terminal else text.split("\n")
    for line in lines:
        line.rstrip()
        console.print(Text(" " * indent if line else "").append_text(line), soft_wrap=True)
