"""PDF files, page by page."""

from __future__ import annotations

import io
import logging
import re

import pypdf
from pypdf.errors import DependencyError, FileNotDecryptedError

from commandr_gguf.errors import FormatError, UnsupportedError
from commandr_gguf.reading.content import Content, Mark

# Damage that pypdf works around is a matter of logs; where nobody has set these up, Python writes it to the terminal.
logging.getLogger("pypdf").addHandler(logging.NullHandler())

_UNWANTED = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")  # halves of characters, and what no font shows


def read_pdf(name: str, data: bytes) -> Content:
    """The text of a PDF file, with its pages.

    Raises:
        FormatError: it is not a PDF file, or it is damaged.
        UnsupportedError: it needs a password, or its pages are pictures without text.
    """
    try:
        title, pages = _pages(data)
    except FileNotDecryptedError:
        raise UnsupportedError(f"{name}: is encrypted; a PDF file that needs a password is not read") from None
    except DependencyError:
        raise UnsupportedError(f"{name}: is encrypted in a way that needs the package cryptography") from None
    except Exception as error:  # noqa: BLE001  # pypdf meets damage with whatever Python raises there
        reason = " ".join(str(error).split())
        raise FormatError(f"{name}: is not a PDF file, or it is damaged: {reason or type(error).__name__}") from None
    text, marks = "", []
    for number, page in enumerate(pages, 1):
        if page:
            marks.append(Mark(len(text), len(text), page=number))
            text += page + "\n\n"
    if not text:
        raise UnsupportedError(f"{name}: has no text on any of its pages; a scan needs text recognition first")
    return Content(text, title, marks)


def _pages(data: bytes) -> tuple[str, list[str]]:
    """The title, "" when there is none, and the text of each page."""
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted:
        reader.decrypt("")  # a file that may only not be printed or copied has an empty password
    pages = [_UNWANTED.sub("", page.extract_text()).strip() for page in reader.pages]
    title = reader.metadata.title if reader.metadata else None
    return _UNWANTED.sub("", " ".join(title.split())) if isinstance(title, str) else "", pages
