"""POST /page/documents: files to passages."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import pytest

import pdf_files
from commandr_gguf import CommandR
from commandr_gguf.server import reader, reading
from commandr_gguf.server.state import MOST_READERS
from server.serving import Running, running

PAGES = ["The Velmora Bridge was opened in 1987.", "The Harrow Library owns 48,000 objects."]


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def read(client: httpx.Client, name: str, data: bytes) -> httpx.Response:
    return client.post("/page/documents", params={"name": name}, content=data)


def test_files_become_passages_with_titles_and_a_number_of_tokens(client: httpx.Client, demo: CommandR) -> None:
    answer = read(client, "bridge.pdf", pdf_files.pdf(PAGES, title="Bridges")).json()
    assert answer["name"] == "bridge.pdf"
    n_tokens = len(demo.tokenize("\n\n".join(PAGES)))
    assert answer["passages"] == [{"title": "Bridges, pages 1-2", "text": "\n\n".join(PAGES), "n_tokens": n_tokens}]
    assert answer["n_tokens"] == n_tokens
    answer = read(client, "latin.txt", "Brücke".encode("latin-1")).json()
    assert [(passage["title"], passage["text"]) for passage in answer["passages"]] == [("latin.txt", "Brücke")]
    text = "\n\n".join(f"# Part {i}\n\n" + "word " * 300 for i in range(3))
    answer = read(client, "long.md", text.encode()).json()
    passages = answer["passages"]
    assert [passage["n_tokens"] for passage in passages] == [len(demo.tokenize(one["text"])) for one in passages]
    assert answer["n_tokens"] == sum(passage["n_tokens"] for passage in passages)
    assert [passage["title"] for passage in passages] == ["Part 0", "Part 1", "Part 2"]
    assert "".join("".join(passage["text"] for passage in passages).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("name", "data", "status", "message"),
    [
        ("", b"a", 400, "the query needs the file's name"),
        ("\0\n", b"a", 400, "the query needs the file's name"),
        ("a.txt", b"", 422, "a.txt: is empty"),
        ("a.txt", b"\0\1\2", 422, "a.txt: is a binary file"),
        ("a.pdf", b"%PDF-1.7 and no more", 422, "a.pdf: is not a PDF file, or it is damaged"),
        ("a.pdf", pdf_files.pdf([""]), 422, "has no text on any of its pages"),
        ("a.pdf", pdf_files.pdf(["x"], password="p"), 422, "is encrypted"),
        ("../../etc/passwd\0.txt", b" ", 422, "passwd.txt: is empty"),
        ("..\\x.txt", b" ", 422, "x.txt: is empty"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(
    client: httpx.Client, name: str, data: bytes, status: int, message: str
) -> None:
    answer = read(client, name, data)
    assert answer.status_code == status
    assert message in answer.json()["message"]
    assert "/" not in answer.json()["message"]


def test_files_and_texts_beyond_the_limits_are_refused(demo: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_CHARACTERS", 100)
    with running(demo, settings={"max_body_bytes": 1000}) as server, server.client() as client:
        assert read(client, "a.txt", b"a" * 1001).status_code == 413
        answer = read(client, "a.txt", b"a" * 101)
        assert answer.status_code == 413
        assert "its text has 101 characters, more than the 100 taken" in answer.json()["message"]
        assert read(client, "a.txt", b"a" * 100).status_code == 200


def test_reading_that_takes_too_long_is_ended(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.01)
    begun = time.monotonic()
    with server.client() as client:
        answer = read(client, "a.txt", b"a")
    assert (answer.status_code, answer.json()["message"]) == (504, "a.txt: reading it took longer than 0 seconds")
    assert time.monotonic() - begun < 10


def test_no_more_files_are_read_at_the_same_time_than_may(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running_now: list[int] = []
    most: list[int] = []

    async def read_slowly(*_arguments: object, **_options: object) -> subprocess.CompletedProcess[bytes]:
        running_now.append(1)
        most.append(len(running_now))
        await anyio.sleep(0.05)
        running_now.pop()
        return subprocess.CompletedProcess([], 0, b'[{"title": "a", "text": "b"}]')

    monkeypatch.setattr(anyio, "run_process", read_slowly)
    with server.client() as client, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: read(client, f"{i}.txt", b"a"), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6
    assert max(most) == MOST_READERS


def test_reading_that_fails_is_told_and_fails_nothing_else(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READER", "commandr_gguf.no_such_module")
    answer = read(client, "a.txt", b"a")
    assert (answer.status_code, answer.json()["message"]) == (422, "a.txt: reading it failed")
    assert client.get("/health").status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to such a limit")
def test_reading_takes_no_more_memory_than_it_may() -> None:
    import resource

    code = "import resource; from commandr_gguf.server import reader; reader.limit_memory(); x = bytearray(5 << 30)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr
    assert reader.MAX_BYTES < 5 << 30
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != reader.MAX_BYTES
