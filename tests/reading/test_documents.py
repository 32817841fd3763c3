"""Files and folders as documents of a chat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commandr_gguf import ArgumentError, CancelledError, CommandRError, FileError, FormatError, UnsupportedError
from commandr_gguf.reading import read_documents
from pdf_files import pdf


def sentences(n: int, start: int = 0) -> str:
    return " ".join(f"Sentence number {i} has six words." for i in range(start, start + n))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "b").mkdir(parents=True)
    (docs / ".hidden").mkdir()
    (docs / "b" / "notes.txt").write_text(sentences(2), encoding="utf-8")
    (docs / "a.md").write_text(f"# Guide\n\n{sentences(40)}\n\n## Use\n\n{sentences(40, 40)}\n", encoding="utf-8")
    (docs / "c.HTML").write_text("<title>Page</title><h1>Top</h1><p>Words of a page.</p>", encoding="utf-8")
    (docs / "d.pdf").write_bytes(pdf(["Words of page one."]))
    (docs / ".secret.txt").write_text("hidden", encoding="utf-8")
    (docs / ".hidden" / "x.txt").write_text("hidden", encoding="utf-8")
    return docs


def titles(documents: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(document["id"], document["data"]["title"]) for document in documents]


def test_a_folder_in_order_without_what_is_hidden(folder: Path) -> None:
    documents = read_documents(folder)
    assert titles(documents) == [
        (f"{folder}/a.md#1", "Guide"),
        (f"{folder}/a.md#2", "Guide > Use"),
        (f"{folder}/b/notes.txt#1", "notes.txt"),
        (f"{folder}/c.HTML#1", "Page > Top"),
        (f"{folder}/d.pdf#1", "d.pdf, page 1"),
    ]
    assert all(document["data"].keys() == {"title", "text"} for document in documents)
    assert documents[2]["data"]["text"] == sentences(2)
    assert len({document["id"] for document in documents}) == len(documents)


def test_the_text_of_a_file_is_all_there_once(folder: Path) -> None:
    chunks = [document["data"]["text"] for document in read_documents(folder / "a.md")]
    assert " ".join(chunks).split() == (folder / "a.md").read_text().split()
    assert all(100 <= len(chunk.split()) <= 400 for chunk in chunks)


def test_paths_keep_their_order_and_a_file_comes_once(folder: Path) -> None:
    documents = read_documents([folder / "d.pdf", str(folder), folder / "b"])
    assert [Path(document["id"]).name for document in documents] == [
        "d.pdf#1",
        "a.md#1",
        "a.md#2",
        "notes.txt#1",
        "c.HTML#1",
    ]


def test_links_in_a_circle_end(folder: Path) -> None:
    (folder / "b" / "up").symlink_to(folder)
    (folder / "e").symlink_to(folder / "b")
    (folder / "broken.txt").symlink_to(folder / "nowhere.txt")
    assert len(read_documents(folder)) == 5


def test_what_cannot_be_read_in_a_folder_is_skipped_and_named(folder: Path) -> None:
    (folder / "x.bin").write_bytes(b"\0\1\2")
    (folder / "x.md").write_bytes(b"\0\1\2")
    (folder / "x.pdf").write_bytes(pdf([""]))
    (folder / "x.txt").write_bytes(b"")
    os.mkfifo(folder / "x.fifo.txt")
    skipped: list[tuple[str, str]] = []
    assert len(read_documents(folder, on_skip=lambda path, why: skipped.append((Path(path).name, why)))) == 5
    assert [name for name, _ in skipped] == ["x.bin", "x.md", "x.pdf", "x.txt"]
    reasons = ["files of this kind are not read", "is a binary file", "has no text on any", "is empty"]
    assert all(reason in why for reason, (_, why) in zip(reasons, skipped, strict=True))


def test_skipped_files_are_logged_when_nobody_asks(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "x.bin").write_bytes(b"\0")
    read_documents(folder)
    assert "x.bin: files of this kind are not read" in caplog.text


def test_a_named_file_is_read_when_it_is_text_whatever_its_name(tmp_path: Path) -> None:
    for name, data in {
        "a.log": b"plain words",
        "b": b"<!doctype html><p>page words",
        "c.x": pdf(["pdf words"]),
    }.items():
        (tmp_path / name).write_bytes(data)
        [document] = read_documents(tmp_path / name)
        assert document["data"]["text"].strip().endswith(" words")
    (tmp_path / "d.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    with pytest.raises(FormatError, match=r"d\.jpg: is a binary file"):
        read_documents(tmp_path / "d.jpg")


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("a.txt", b"", FormatError),
        ("a.md", b"\0\0", FormatError),
        ("a.html", b"<p></p>", FormatError),
        ("a.pdf", b"not one", FormatError),
        ("a.pdf", pdf([""]), UnsupportedError),
        ("a.pdf", pdf(["x"], password="secret"), UnsupportedError),
    ],
)
def test_a_named_file_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, data: bytes, error: type[CommandRError]
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error) as caught:
        read_documents([tmp_path / name])
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


def test_paths_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere: cannot be read: No such file"):
        read_documents(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match="fifo: is neither a file nor a folder"):
        read_documents(tmp_path / "fifo")


def test_a_folder_with_nothing_to_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nothing to read"):
        read_documents(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(FormatError, match=r"the first of 1 skipped: .*a\.bin: files of this kind"):
        read_documents(tmp_path)


@pytest.mark.parametrize("paths", [[], 3, [3], [""], "", ["a\0b"], [b"a"]])
def test_wrong_paths_are_refused(paths: Any) -> None:
    with pytest.raises(ArgumentError, match="path"):
        read_documents(paths)


def test_progress_counts_files_and_can_cancel(tmp_path: Path) -> None:
    for i in range(300):
        (tmp_path / f"{i:03}.txt").write_text(f"File {i}.", encoding="utf-8")
    seen: list[tuple[int, int]] = []
    documents = read_documents(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert [document["data"]["text"] for document in documents] == [f"File {i}." for i in range(300)]
    assert seen == [(i, 300) for i in range(301)]
    with pytest.raises(CancelledError, match="after 7 of 300 files"):
        read_documents(tmp_path, progress=lambda done, _: done < 7)


def test_the_libraries_of_readers_are_loaded_for_files_that_need_them(tmp_path: Path) -> None:
    """They would take a third of the start of the command line."""
    (tmp_path / "a.txt").write_text("Words.")
    program = (
        "import sys\n"
        "from commandr_gguf import read_documents\n"
        f"read_documents({str(tmp_path / 'a.txt')!r})\n"
        "print(*sorted({'pypdf', 'bs4', 'markdownify', 'markdown_it', 'yaml'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
