"""Clients that send slowly, and clients that hang up while something other than a reply is computed for them."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from commandr_gguf import CommandR
from server.serving import Running, running, wait_until
from server.stepping import leases


@contextlib.contextmanager
def connected(server: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=20) as connection:
        yield connection


def head(path: str, n_bytes: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {n_bytes}\r\n\r\n".encode()


def received(connection: socket.socket) -> str:
    """All until the server closes the connection."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("path", "shape"),
    [("/v2/chat", ["message"]), ("/v1/chat/completions", ["error"]), ("/v1/tokenize", ["message"])],
)
def test_a_body_must_arrive_in_time(demo: CommandR, path: str, shape: list[str]) -> None:
    with running(demo, settings={"body_timeout": 0.4}) as server, connected(server) as connection:
        connection.sendall(head(path, 1000))
        started = time.monotonic()
        with contextlib.suppress(OSError):  # it may be closed by then
            for _ in range(6):
                connection.sendall(b" ")
                time.sleep(0.1)
        answer = received(connection)
        assert time.monotonic() - started < 5
    first, _, rest = answer.partition("\r\n")
    assert first.startswith("HTTP/1.1 408 ")
    body = json.loads(rest.partition("\r\n\r\n")[2])
    assert list(body) == shape
    assert "the body did not arrive within 0.4 seconds" in json.dumps(body)


def test_what_comes_after_the_body_has_all_the_time(demo: CommandR) -> None:
    with running(demo, settings={"body_timeout": 0.2}) as server, server.client() as client:
        body = {"prompt": "The harbor", "max_tokens": 400, "temperature": 1, "seed": 3, "logit_bias": {"7": -100}}
        started = time.monotonic()
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200
        assert len(answer.json()["choices"][0]["text"]) > 100 or time.monotonic() - started > 0.2


@pytest.mark.parametrize("path", ["/v2/embed", "/v1/embed", "/v1/embeddings"])
def test_embeddings_end_with_who_asked_for_them(demo: CommandR, caplog: pytest.LogCaptureFixture, path: str) -> None:
    caplog.set_level(logging.INFO, "commandr_gguf.server")
    texts = ["word " * 1500] * 30
    body: dict[str, Any] = {"input": texts} if path == "/v1/embeddings" else {"texts": texts, "input_type": "x"}
    content = json.dumps(body).encode()
    with running(demo) as server:
        with connected(server) as connection:
            connection.sendall(head(path, len(content)) + content)
            wait_until(lambda: leases(demo))
        wait_until(lambda: '"status": 499' in caplog.text)
        wait_until(lambda: leases(demo) == 0 and not server.engine._side_work)


def test_tokens_are_spelled_no_more_when_who_asked_has_gone(demo: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    spelled = []

    def slowly(tokens: list[int]) -> str:
        spelled.append(tokens)
        time.sleep(0.01)
        return ""

    monkeypatch.setattr(demo, "detokenize", slowly)
    content = json.dumps({"text": "word " * 10_000}).encode()
    with running(demo) as server:
        with connected(server) as connection:
            connection.sendall(head("/v1/tokenize", len(content)) + content)
            wait_until(lambda: spelled)
        time.sleep(0.5)
        n_spelled = len(spelled)
        time.sleep(0.2)
        assert len(spelled) == n_spelled < 1000
