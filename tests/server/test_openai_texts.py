"""/v1/completions and /v1/embeddings, asked by OpenAI's own client; and what all its paths do with errors."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse

from commandr_gguf import CommandR
from server.openai_asking import GREEDY, HELLO, asking
from server.serving import Running, running, wait_until
from server.stepping import leases

PROMPT = "The Velmora Bridge was opened in"
LONG: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"type": "integer"}, "minItems": 1500}},
    "required": ["a"],
}
# No end token, so that a reply takes as long as it may: it writes numbers into a list.
ENDLESS: dict[str, Any] = {
    "messages": HELLO,
    "response_format": {"type": "json_schema", "json_schema": {"name": "long", "schema": LONG}},
    "temperature": 1,
    "seed": 1,
}


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with asking(server) as opened:
        yield opened


# ---- completions


def test_a_text_or_its_tokens_are_continued(client: openai.OpenAI, demo: CommandR) -> None:
    expected = demo.generate(PROMPT, max_tokens=16, temperature=0)
    answer = client.completions.create(prompt=PROMPT, **GREEDY)
    [choice] = answer.choices
    assert choice.text == expected.text
    assert choice.finish_reason == {"length": "length", "stop": "stop"}[str(expected.finish_reason)]
    assert answer.usage is not None
    tokens = demo.tokenize(PROMPT, add_special=True)
    assert answer.usage.prompt_tokens == len(tokens)
    assert client.completions.create(prompt=tokens, **GREEDY).choices[0].text == expected.text


def test_several_prompts_have_their_replies_in_order(client: openai.OpenAI, demo: CommandR) -> None:
    prompts = [PROMPT, "Hello"]
    alone = [client.completions.create(prompt=prompt, **GREEDY).choices[0].text for prompt in prompts]
    answer = client.completions.create(prompt=prompts, n=2, **GREEDY)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, alone[0]),
        (1, alone[0]),
        (2, alone[1]),
        (3, alone[1]),
    ]
    tokens = [demo.tokenize(prompt, add_special=True) for prompt in prompts]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(map(len, tokens))
    by_tokens = client.completions.create(prompt=tokens, **GREEDY)
    assert [choice.text for choice in by_tokens.choices] == alone


def test_a_stream_is_the_reply_in_chunks(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"prompt": [PROMPT, "Hello"], "stop": "xyz", **GREEDY}
    whole = client.completions.create(**options)
    chunks = list(client.completions.create(stream=True, stream_options={"include_usage": True}, **options))
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
    assert chunks[-1].choices == []
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_log_probabilities_of_a_text(client: openai.OpenAI) -> None:
    [choice] = client.completions.create(prompt=PROMPT, logprobs=2, **GREEDY).choices
    found = choice.logprobs
    assert found is not None
    assert "".join(found.tokens or []) == choice.text
    for i, token in enumerate(found.tokens or []):
        assert choice.text[(found.text_offset or [])[i] :].startswith(token)
        top = (found.top_logprobs or [])[i]
        assert max(top.values()) == top[token] == (found.token_logprobs or [])[i] <= 0
    chunks = list(client.completions.create(prompt=PROMPT, logprobs=2, stream=True, **GREEDY))
    streamed = [part.logprobs for chunk in chunks for part in chunk.choices if part.logprobs]
    assert [offset for part in streamed for offset in part.text_offset or []] == found.text_offset


def test_completions_are_of_the_client_s_own_types(server: Running) -> None:
    body = {"prompt": [PROMPT, "Hello"], "logprobs": 1, "n": 2, **GREEDY}
    with server.client() as plain:
        Completion.model_validate_json(plain.post("/v1/completions", json=body).text, strict=True)
        streamed = plain.post("/v1/completions", json={**body, "stream": True}).text
    blocks = streamed.strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    for block in blocks:
        chunk = json.loads(block.removeprefix("data: "))
        for choice in chunk["choices"]:  # OpenAI's own chunks have no reason either, though the type has
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate_json(json.dumps(chunk), strict=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": PROMPT, "echo": True}, "echo is not supported"),
        ({"prompt": PROMPT, "suffix": "."}, "suffix is not supported"),
        ({"prompt": PROMPT, "best_of": 3}, "best_of is not supported"),
        ({"prompt": PROMPT, "logprobs": 21}, "logprobs must be"),
        ({"prompt": []}, "prompt must be a string, tokens, or a list"),
        ({"prompt": [[1], "a"]}, "prompt must be a string, tokens, or a list"),
        ({"prompt": [10**7]}, "a token of prompt must be"),
        ({"prompt": None}, "prompt is missing"),
        ({"prompt": PROMPT, "n": 0}, "n must be"),
        ({"prompt": PROMPT, "stop": 7}, "stop must be a list"),
    ],
)
def test_what_cannot_be_completed_is_refused_with_a_sentence(
    client: openai.OpenAI, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.completions.create(**options, **GREEDY)
    assert caught.value.type == "invalid_request_error"


# ---- embeddings


def test_embeddings_are_the_model_s_in_both_forms(client: openai.OpenAI, server: Running, demo: CommandR) -> None:
    texts = ["The Velmora Bridge", "Hello"]
    expected = demo.embed(texts)
    as_floats = client.embeddings.create(model="any", input=texts, encoding_format="float")
    as_bytes = client.embeddings.create(model="any", input=texts)  # the client asks for base64
    for answer in (as_floats, as_bytes):
        assert [one.index for one in answer.data] == [0, 1]
        np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-3)
    tokens = [demo.tokenize(text, add_special=True) for text in texts]
    assert as_floats.usage.prompt_tokens == sum(map(len, tokens))
    by_tokens = client.embeddings.create(model="any", input=tokens)
    np.testing.assert_allclose([one.embedding for one in by_tokens.data], expected, atol=1e-3)
    with server.client() as plain:
        body = {"model": "any", "input": "Hello"}
        CreateEmbeddingResponse.model_validate_json(plain.post("/v1/embeddings", json=body).text, strict=True)
        packed = plain.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    row = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(row, expected[1], atol=1e-3)


def test_embeddings_that_cannot_be_are_refused(client: openai.OpenAI) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"input": "a", "dimensions": 3}, "this model's embeddings cannot be shortened"),
        ({"input": ["a"] * 2049}, "input may have 2048 texts at most"),
        ({"input": []}, "input must be a string"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format must be one of FLOAT, BASE64"),
        ({"input": "word " * 5000}, "and the context 4096"),
    ]
    for options, message in wrong:
        with pytest.raises(openai.BadRequestError, match=message):
            client.embeddings.create(model="any", **options)


# ---- errors


def test_errors_are_of_the_client_s_classes(client: openai.OpenAI, server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="and the context 4096") as caught:
        client.chat.completions.create(messages=[{"role": "user", "content": "word " * 5000}], model="any")
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    with server.client() as plain:
        for path in ("chat/completions", "completions", "responses", "embeddings"):
            for answer in (plain.post(f"/v1/{path}", content=b"{"), plain.get(f"/v1/{path}")):
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_full_queue_is_a_rate_limit_error(demo: CommandR) -> None:
    with running(demo, n_parallel=1, n_queue=0) as server, asking(server) as client, server.client() as plain:
        body = {**ENDLESS, "stream": True}
        with plain.stream("POST", "/v1/chat/completions", json=body) as busy:
            lines = busy.iter_lines()
            next(lines)
            wait_until(lambda: server.engine.counts.active == 1)
            with pytest.raises(openai.RateLimitError, match="wait already") as caught:
                client.chat.completions.create(messages=HELLO, **GREEDY)
            assert int(caught.value.response.headers["retry-after"]) >= 1
            assert caught.value.code == "rate_limit_exceeded"


def test_when_one_of_several_replies_finds_no_place_the_others_leave(demo: CommandR) -> None:
    with running(demo, n_parallel=2, n_queue=0) as server, asking(server) as client, server.client() as plain:
        with plain.stream("POST", "/v1/chat/completions", json={**ENDLESS, "stream": True}) as busy:
            lines = busy.iter_lines()
            next(lines)
            wait_until(lambda: server.engine.counts.active == 1)
            with pytest.raises(openai.RateLimitError):
                client.chat.completions.create(**ENDLESS, model="any", n=2)
            wait_until(lambda: server.engine.counts.ended == {"cancelled": 1})
            wait_until(lambda: server.engine.counts.active == 1)
        wait_until(lambda: server.engine.counts.active == 0)
    assert leases(demo) == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_hangs_up_frees_its_places(demo: CommandR, n: int, stream: bool) -> None:
    content = json.dumps({**ENDLESS, "n": n, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with running(demo) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
            connection.sendall(head + content)
            wait_until(lambda: server.engine.counts.active == n and server.engine.counts.reply_tokens > 5)
        wait_until(lambda: server.engine.counts.active == 0 and server.engine.counts.ended)
        assert server.engine.counts.ended == {"cancelled": n}
    assert leases(demo) == 0


def test_a_stopping_server_says_so(demo: CommandR) -> None:
    with running(demo, settings={"grace": 0.2}) as server, asking(server) as client:
        chunks = client.chat.completions.create(stream=True, model="any", **ENDLESS)
        next(chunks)
        wait_until(lambda: server.engine.counts.reply_tokens > 5)
        server.server.should_exit = True
        with pytest.raises(openai.APIError, match="the server is stopping"):
            list(chunks)


def test_a_reply_whose_time_is_up_was_cut_for_its_length(demo: CommandR) -> None:
    with running(demo, settings={"timeout": 0.5}) as server, asking(server) as client:
        [choice] = client.chat.completions.create(model="any", **ENDLESS).choices
        assert choice.finish_reason == "length"
        assert choice.message.content
