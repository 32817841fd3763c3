"""Files and folders to the documents of a chat."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from commandr_gguf.errors import ArgumentError, CancelledError, FileError, FormatError, UnsupportedError
from commandr_gguf.reading.chunks import chunk_spans
from commandr_gguf.reading.content import Content, chunk_title
from commandr_gguf.reading.folders import FoundFile, find_files
from commandr_gguf.reading.text_file import read_text

logger = logging.getLogger("commandr_gguf.reading")

AnyPath = str | os.PathLike[str]
_Reader = Callable[[str, bytes], Content]


# The libraries behind these three would be a third of all that the command line imports: files that need them wait.


def _markdown(name: str, data: bytes) -> Content:
    from commandr_gguf.reading.markdown_file import read_markdown  # noqa: PLC0415  # see above

    return read_markdown(name, data)


def _html(name: str, data: bytes) -> Content:
    from commandr_gguf.reading.html_file import read_html  # noqa: PLC0415  # see above

    return read_html(name, data)


def _pdf(name: str, data: bytes) -> Content:
    from commandr_gguf.reading.pdf_file import read_pdf  # noqa: PLC0415  # see above

    return read_pdf(name, data)


READERS: dict[str, _Reader] = {
    **dict.fromkeys((".txt", ".text", ".rst", ".adoc", ".org", ".csv", ".tsv"), read_text),
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd"), _markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _html),
    ".pdf": _pdf,
}
"""The endings of the files that are read, in small letters."""


def read_documents(
    paths: AnyPath | Iterable[AnyPath],
    *,
    min_words: int = 100,
    max_words: int = 400,
    on_skip: Callable[[str, str], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[dict[str, Any]]:
    """Read files as documents for `CommandR.chat`, cut into chunks.

    Each is `{"id": "path/to/file#3", "data": {"title": ..., "text": ...}}`: the third chunk of that file, titled by
    the headings it stands under, by the page of a PDF file, or by the file's name.

    In a folder, files of other kinds and those that cannot be read are skipped; files named directly are errors then,
    except that any text is read, whatever its name ends in.

    Args:
        paths: files and folders, one or several. Folders are read with all below them, sorted by name, hidden files
            left out.
        min_words: fewest words of a chunk, see `chunk_spans`.
        max_words: most words of a chunk.
        on_skip: called with a file's path and the sentence that says why it was skipped; None logs a warning.
        progress: called with the files read and to be read; returning False cancels.

    Raises:
        FileError: a path does not exist or cannot be read.
        FormatError: a named file is empty, binary or damaged, or there is nothing to read in any of the paths.
        UnsupportedError: a named file is an encrypted PDF file, or one without text.
        CancelledError: `progress` returned False.
        ArgumentError: an argument is out of range.
    """
    given = _paths(paths)
    chunk_spans("", min_words=min_words, max_words=max_words)  # wrong numbers are known before any work
    files = find_files(given)
    documents: list[dict[str, Any]] = []
    skipped = []
    for n_done, file in enumerate(files):
        if progress is not None and progress(n_done, len(files)) is False:
            raise CancelledError(f"reading was cancelled after {n_done} of {len(files)} files")
        try:
            passages = read_passages(file.path, _read(file), min_words=min_words, max_words=max_words)
        except (FileError, FormatError, UnsupportedError) as error:
            if file.named:
                raise
            skipped.append(str(error))
            if on_skip is None:
                logger.warning("skipped %s", error)
            else:
                on_skip(file.path, str(error))
        else:
            documents += [{"id": f"{file.path}#{i}", "data": passage} for i, passage in enumerate(passages, 1)]
    if not documents:
        why = f"; the first of {len(skipped)} skipped: {skipped[0]}" if skipped else ""
        raise FormatError(f"{', '.join(given)}: nothing to read there{why}")
    if progress is not None:
        progress(len(files), len(files))
    return documents


def read_passages(name: str, data: bytes, *, min_words: int = 100, max_words: int = 400) -> list[dict[str, str]]:
    """The chunks of one file that is in memory, each as `{"title": ..., "text": ...}`.

    Args:
        name: the file's; its ending says what it is, and where it says nothing, the file's beginning does.
        data: all of it.
        min_words: fewest words of a chunk, see `chunk_spans`.
        max_words: most words of a chunk.

    Raises:
        FormatError: the file is empty, binary or damaged.
        UnsupportedError: it is an encrypted PDF file, or one without text.
        ArgumentError: an argument is out of range.
    """
    content = _content(name, data)
    spans = chunk_spans(content.text, content.marks, min_words=min_words, max_words=max_words)
    file_name = Path(name).name
    return [
        {"title": chunk_title(content, start, end, file_name), "text": content.text[start:end]} for start, end in spans
    ]


def _paths(paths: AnyPath | Iterable[AnyPath]) -> list[str]:
    several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    try:
        given = [os.fspath(path) for path in several]
    except TypeError:
        raise ArgumentError(f"paths must be files and folders, not {paths!r}") from None
    for path in given:
        if not isinstance(path, str) or not path or "\0" in path:
            raise ArgumentError(f"a path must be text that is not empty, not {path!r}")
    if not given:
        raise ArgumentError("paths is empty: there is nothing to read")
    return given


def _read(file: FoundFile) -> bytes:
    if not file.named and Path(file.path).suffix.lower() not in READERS:
        raise UnsupportedError(f"{file.path}: files of this kind are not read")
    try:
        data = Path(file.path).read_bytes()
    except OSError as error:
        raise FileError(f"{file.path}: cannot be read: {error.strerror}") from None
    return data


def _content(name: str, data: bytes) -> Content:
    if not data:
        raise FormatError(f"{name}: is empty")
    reader = READERS.get(Path(name).suffix.lower()) or _reader_for(data)
    return reader(name, data)


def _reader_for(data: bytes) -> _Reader:
    """By its beginning, for a file whose name says nothing."""
    start = data[:1024].lstrip().lower()
    if start.startswith(b"%pdf-"):
        return _pdf
    return _html if start.startswith((b"<!doctype html", b"<html")) else read_text
