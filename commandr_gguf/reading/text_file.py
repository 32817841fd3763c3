"""Bytes to text, whatever their encoding."""

from __future__ import annotations

import codecs
import re
import string

from commandr_gguf.errors import FormatError
from commandr_gguf.reading.content import Content

_BOMS = (  # the longer ones first: one of UTF-32 begins like one of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What is told apart well. Left out are those that are taken for one of these, or one of these for them.
_LEGACY = ["cp1252", "cp1251", "koi8_r", "cp1253", "shift_jis", "euc_jp", "gb18030", "big5", "euc_kr"]
_ENOUGH_TO_TELL = 32  # bytes beyond ASCII; an accent or two say nothing about the rest of the code page
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def read_text(name: str, data: bytes) -> Content:
    """A plain text file. Raises FormatError when it is binary or holds nothing."""
    return Content(decode(name, data))


def decode(name: str, data: bytes, declared: str | None = None) -> str:
    """The text of a file, with one newline at the ends of lines and without a byte order mark.

    Taken is, in this order: what a byte order mark says, UTF-8 when all of it is valid, what the file declares, UTF-16
    when zeros lie as they do in it, a legacy encoding that the bytes speak for, and Windows' Latin-1.

    Args:
        name: for messages.
        data: the whole file.
        declared: an encoding that the file itself names.

    Raises:
        FormatError: the file is binary or holds nothing but white space.
    """
    text = _decode(data, declared)
    text = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    n_control = len(_CONTROL.findall(text))
    if "\0" in text or n_control > len(text) // 50:
        raise FormatError(f"{name}: is a binary file, not text")
    if not text.strip():
        raise FormatError(f"{name}: is empty")
    return text


def _decode(data: bytes, declared: str | None) -> str:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(encoding, "replace")
    for guess in ("utf-8", declared, _utf_16(data)):
        try:
            if guess:
                return data.decode(guess)
        except (UnicodeError, LookupError):
            continue
    return _decode_legacy(data)


def _utf_16(data: bytes) -> str | None:
    """The byte order of UTF-16 without a mark, where every other byte is mostly 0."""
    sample = data[: min(len(data), 4096) // 2 * 2]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if len(data) % 2 == 0 and max(even, odd) > len(sample) // 5 and min(even, odd) <= len(sample) // 100:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _decode_legacy(data: bytes) -> str:
    n_high = len(data.translate(None, bytes(range(0x80))))
    n_letters = len(data) - len(data.translate(None, string.ascii_letters.encode()))
    if n_high >= _ENOUGH_TO_TELL or n_high > n_letters:
        import charset_normalizer  # noqa: PLC0415  # it is slow to import, and few files need it

        best = charset_normalizer.from_bytes(data, cp_isolation=_LEGACY).best()
        if best is not None:
            return str(best)
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")
