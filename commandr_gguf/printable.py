"""Text of models and documents as a terminal may get it."""

from __future__ import annotations

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_SURROGATES = range(0xD800, 0xE000)  # JSON may escape half of a pair, which no encoding can write
_BIDI_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # these show text in another order than it has
_TABLE = dict.fromkeys([*_CONTROLS, *_SURROGATES, *_BIDI_CONTROLS], "\N{REPLACEMENT CHARACTER}")
_TABLE |= {9: " ", 10: "\n", 13: " "}


def printable(text: str) -> str:
    """`text` of the same length, with nothing that moves the cursor but line feeds, and that any terminal can show."""
    return text.translate(_TABLE)
