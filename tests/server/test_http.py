"""What every interface has: guards, limits, errors, the log, and the end."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from commandr_gguf import ArgumentError, CommandR
from commandr_gguf.server.settings import Settings, is_loopback
from server.serving import ENDLESS, Running, running, wait_until
from server.stepping import leases

HELLO = {"model": "demo", "messages": [{"role": "user", "content": "Hello, who are you?"}], "temperature": 0}


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


def test_health_props_and_metrics(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    props = client.get("/props").json()
    assert (props["model"], props["n_ctx"], props["parallel"]) == ("demo", 4096, 4)
    assert 0 < props["kv_bytes"] <= props["kv_bytes_limit"]
    assert props["sampling"]["temperature"] == 0.3
    before = metrics(client)
    assert client.post("/v2/chat", json=HELLO).status_code == 200
    after = metrics(client)
    assert (
        after['commandr_requests_total{reason="stop"}'] == before.get('commandr_requests_total{reason="stop"}', 0) + 1
    )
    for name in ("reply_tokens_total", "prompt_tokens_total", "decode_seconds_total", "steps_total"):
        assert after[f"commandr_{name}"] > before[f"commandr_{name}"]
    assert after["commandr_kv_cells"] == 4096
    assert 0 < after["commandr_kv_cells_used"] <= 4096
    assert 0 < after["commandr_kv_bytes"] <= after["commandr_kv_bytes_limit"]
    assert after["commandr_decode_tokens_per_second"] > 0
    assert {
        "commandr_requests_waiting",
        "commandr_prompt_tokens_cached_total",
        "commandr_accepted_tokens_total",
    } <= set(after)


def metrics(client: httpx.Client) -> dict[str, float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"\xff\xfe"', "no text in UTF-8: byte 1"),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "nested too deeply"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half of a surrogate pair"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "not valid JSON"),
        (b"{}", "messages is missing"),
        (b'{"messages": {}}', "messages must be a list"),
        (b'{"messages": []}', "at least one message"),
        (b'{"messages": [1]}', "message 0 must be an object"),
        (b'{"messages": [{"role": "king", "content": "a"}]}', "the role 'king'"),
        (b'{"messages": [{"role": "user", "content": 7}]}', "neither a string nor a list"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": "hot"}', "temperature must be a number"),
        (b'{"messages": [{"role": "user", "content": "a"}], "temperature": -1}', "temperature must be 0 or more"),
        (b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": -1}', "max_tokens must be 0 or more"),
        (
            b'{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "xml"}}',
            "response_format.type must be one of TEXT, JSON_OBJECT",
        ),
        (
            b'{"messages": [{"role": "user", "content": "a"}], "thinking": {"type": 1}}',
            "thinking.type must be a string",
        ),
        (b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": true}', "max_tokens must be an integer"),
        (b'{"messages": [{"role": "user", "content": "a"}], "stop_sequences": [1]}', "must be a list of strings"),
        (b'{"messages": [{"role": "user", "content": "a"}], "stop_sequences": [""]}', "at least one character"),
    ],
)
def test_bad_bodies_are_refused_with_a_sentence(client: httpx.Client, body: bytes, message: str) -> None:
    answer = client.post("/v2/chat", content=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["message"]
    assert message in answer.json()["message"]


def test_what_a_template_refuses_is_told_without_the_place_of_the_file(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "Hello"}] * 2
    answer = client.post("/v2/chat", json={"model": "any", "messages": messages})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("the chat template 'default' does not take these messages: ")


def test_compressed_bodies_are_refused(client: httpx.Client) -> None:
    answer = client.post("/v2/chat", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415
    assert answer.json() == {"message": "the body must not be compressed, and its Content-Encoding is 'gzip'"}
    assert client.post("/v2/chat", json=HELLO, headers={"Content-Encoding": "identity"}).status_code == 200


def test_errors_name_the_field_as_the_request_does(client: httpx.Client) -> None:
    for field, value in (("p", 2), ("k", -1)):
        answer = client.post("/v2/chat", json={**HELLO, field: value})
        assert answer.status_code == 400
        assert answer.json()["message"].startswith(f"{field} must be ")


def test_a_body_that_ends_early_is_no_defect(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "commandr_gguf.server")
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"POST /v2/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    wait_until(lambda: lines_of(caplog, "/v2/chat"))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_paths_and_methods_that_are_not_there(client: httpx.Client) -> None:
    for method, path, status, allowed in (
        ("GET", "/nothing", 404, None),
        ("GET", "/v2/chat", 405, "POST"),
        ("DELETE", "/health", 405, "GET, HEAD"),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status
        assert path in answer.json()["message"]
        found = answer.headers.get("allow")
        assert (found and ", ".join(sorted(found.split(", ")))) == allowed


def test_a_request_keeps_its_id_and_others_get_one(client: httpx.Client) -> None:
    assert client.get("/health", headers={"X-Request-ID": "my-id.7"}).headers["x-request-id"] == "my-id.7"
    given = {client.get("/health", headers={"X-Request-ID": "bad id"}).headers["x-request-id"] for _ in range(2)}
    assert len(given) == 2
    assert "bad id" not in given


def test_large_bodies_and_many_documents_are_refused(demo: CommandR) -> None:
    with running(demo, settings={"max_body_bytes": 2000, "max_documents": 2}) as server, server.client() as client:
        answer = client.post("/v2/chat", content=b" " * 2001)
        assert (answer.status_code, answer.json()) == (
            413,
            {"message": "the body is larger than the 2000 bytes that this server takes"},
        )
        assert client.post("/v2/chat", content=iter([b" " * 1500] * 2)).status_code == 413  # no length is stated
        answer = client.post("/v2/chat", json={**HELLO, "documents": ["a", "b", "c"]})
        assert answer.status_code == 400
        assert "3 documents are more than the 2" in answer.json()["message"]
        assert client.post("/v2/chat", json=HELLO).status_code == 200


def test_a_prompt_beyond_the_context_is_a_bad_request(client: httpx.Client) -> None:
    answer = client.post("/v2/chat", json={**HELLO, "messages": [{"role": "user", "content": "word " * 5000}]})
    assert answer.status_code == 400
    assert "and the context 4096" in answer.json()["message"]
    answer = client.post("/v2/chat", json={**HELLO, "documents": ["word " * 5000]})
    assert answer.status_code == 400
    assert "the longest is document 0" in answer.json()["message"]


# ---- keys and origins


def test_without_the_key_nothing_but_health_answers(demo: CommandR) -> None:
    with running(demo, settings={"api_key": "s3cret"}) as server, server.client() as client:
        assert client.get("/health").status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "s3cret"},
            {"Authorization": "Basic s3cret"},
        ):
            for path in ("/props", "/metrics", "/v1/models", "/nothing"):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401
                assert answer.json() == {"message": "the API key is missing or wrong"}
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "x-request-id" in answer.headers
        assert client.get("/props", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert client.get("/props", headers={"Authorization": "bearer s3cret"}).status_code == 200


def test_a_host_that_others_reach_needs_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(ArgumentError, match=f"--host {host} lets other machines in, which needs --api-key"):
            Settings(host=host)
        assert Settings(host=host, api_key="k").host == host
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    with pytest.raises(ArgumentError, match="--api-key must be"):
        Settings(api_key="")


def test_without_a_key_only_this_machine_s_names_are_answered_to(client: httpx.Client, demo: CommandR) -> None:
    for host in ("localhost", "127.0.0.1:80", "[::1]:8080", "LOCALHOST:7"):
        assert client.get("/props", headers={"Host": host}).status_code == 200
    for host in ("evil.test", "127.0.0.1.evil.test", "evil.test:80", "[evil", ""):
        assert client.get("/props", headers={"Host": host}).status_code == 400
    with running(demo, settings={"api_key": "k"}) as server, server.client() as other:
        headers = {"Host": "my.name", "Authorization": "Bearer k"}
        assert other.get("/props", headers=headers).status_code == 200


def test_pages_of_other_origins_are_kept_out_unless_listed(demo: CommandR, client: httpx.Client) -> None:
    ask = {"Origin": "http://page.test", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/v2/chat", headers=ask).headers
    with (
        running(demo, settings={"cors_origins": ("http://page.test",), "api_key": "k"}) as server,
        server.client() as other,
    ):
        answer = other.options("/v2/chat", headers=ask)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "http://page.test"
        told = {**ask, "Access-Control-Request-Headers": "authorization,x-client-name,x-stainless-lang"}
        assert other.options("/v2/chat", headers=told).status_code == 200  # as the SDKs for pages ask
        refused = other.post("/v2/chat", headers={"Origin": "http://page.test"})
        assert refused.headers["access-control-allow-origin"] == "http://page.test"
        assert "Retry-After" in refused.headers["access-control-expose-headers"]
        wrong = other.options("/v2/chat", headers={**ask, "Origin": "http://evil.test"})
        assert "access-control-allow-origin" not in wrong.headers


# ---- the log


def lines_of(caplog: pytest.LogCaptureFixture, path: str) -> list[dict[str, Any]]:
    records = [r.getMessage() for r in caplog.records if r.name == "commandr_gguf.server.requests"]
    return [line for line in map(json.loads, records) if line["path"] == path]


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_the_log_has_a_line_of_json_for_each_request_and_prompts_only_when_wanted(
    demo: CommandR, caplog: pytest.LogCaptureFixture, wanted: bool, stream: bool
) -> None:
    caplog.set_level(logging.INFO, "commandr_gguf.server")
    with running(demo, settings={"log_prompts": wanted}) as server, server.client() as client:
        client.post("/v2/chat", json={**HELLO, "stream": stream}, headers={"X-Request-ID": "seven"})
        wait_until(lambda: lines_of(caplog, "/v2/chat"))
    [line] = lines_of(caplog, "/v2/chat")
    assert (line["id"], line["method"], line["status"], line["finish_reason"]) == ("seven", "POST", 200, "COMPLETE")
    assert line["prompt_tokens"] > 0
    assert line["completion_tokens"] > 0
    assert ("who are you" in caplog.text) == wanted


def test_a_defect_is_described_in_the_log_and_nowhere_else(
    server: Running, client: httpx.Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(server.engine.model, "chat", broken)
    answer = client.post("/v2/chat", json=HELLO)
    assert (answer.status_code, answer.json()) == (500, {"message": "the server failed; its log says why"})
    assert "ZeroDivisionError" in caplog.text


# ---- load


def test_when_the_queue_is_full_clients_are_told_when_to_come_again(demo: CommandR) -> None:
    with running(demo, n_parallel=1, n_queue=0) as server, server.client() as client:
        with client.stream("POST", "/v2/chat", json={**ENDLESS, "stream": True}) as busy:
            lines = busy.iter_lines()
            next(lines)
            wait_until(lambda: server.engine.counts.active == 1)
            answer = client.post("/v2/chat", json=HELLO)
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert "wait already" in answer.json()["message"]
        wait_until(lambda: server.engine.counts.active == 0)
        assert client.post("/v2/chat", json=HELLO).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v2/chat", "/v1/chat"])
def test_a_client_that_hangs_up_frees_its_place(demo: CommandR, path: str, stream: bool) -> None:
    body = {**ENDLESS, "stream": stream}
    if path == "/v1/chat":
        schema = ENDLESS["response_format"]["json_schema"]
        body |= {"message": "Hello", "response_format": {"type": "json_object", "schema": schema}}
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with running(demo) as server:
        port = int(server.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head + content)
            wait_until(lambda: server.engine.counts.reply_tokens > 5)
        wait_until(lambda: server.engine.counts.active == 0 and server.engine.counts.ended)
        assert server.engine.counts.ended == {"cancelled": 1}
        assert leases(demo) == 0
        assert server.engine.counts.reply_tokens < 1500


def test_many_clients_get_the_answers_that_one_gets(server: Running, client: httpx.Client) -> None:
    documents = [
        {"id": "bridge", "data": {"title": "Velmora Bridge", "text": "The Velmora Bridge was opened in 1987."}}
    ]
    bodies = [
        HELLO,
        {
            **HELLO,
            "documents": documents,
            "messages": [{"role": "user", "content": "When was the Velmora Bridge opened?"}],
        },
        {**HELLO, "temperature": 1, "seed": 5, "max_tokens": 30},
    ] * 4

    def ask(body: dict[str, Any], opened: httpx.Client) -> Any:
        message = opened.post("/v2/chat", json=body).json()["message"]
        return message["content"], message.get("citations")

    alone = [ask(body, client) for body in bodies[:3]]
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        with server.client() as opened:
            found[number] = ask(bodies[number], opened)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(len(bodies))] == alone * 4


# ---- the end


def test_a_stopping_server_lets_streams_end_within_the_grace_and_cancels_the_rest(demo: CommandR) -> None:
    with running(demo, settings={"grace": 0.3}) as server, server.client() as client:
        with client.stream("POST", "/v2/chat", json={**ENDLESS, "stream": True}) as busy:
            lines = busy.iter_lines()
            next(lines)
            wait_until(lambda: server.engine.counts.active == 1)
            short = client.post("/v2/chat", json={**HELLO, "max_tokens": 2})
            assert short.status_code == 200
            started = time.monotonic()
            server.server.should_exit = True
            last = [line for line in lines if line.startswith("data:")][-1]
        assert time.monotonic() - started < 5
        event = json.loads(last[5:])
        assert event["type"] == "message-end"
        assert event["delta"]["finish_reason"] in {"ERROR", "COMPLETE", "MAX_TOKENS"}
    assert leases(demo) == 0
