"""Version 1 of Cohere's interface and the paths that both share, asked by Cohere's own client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from typing import Any

import cohere
import numpy as np
import pytest
from cohere.base_client import BaseCohere

from commandr_gguf import CommandR, SamplingParams
from commandr_gguf.demo import showcase
from server.serving import Running, running

DOCUMENTS = [
    {"id": "bridge", "title": "Velmora Bridge", "text": "The Velmora Bridge was opened in 1987."},
    {"title": "Harrow Library", "text": "The Harrow Library is headed by Nora Quill."},
]
WHEN = "When was the Velmora Bridge opened?"
HELLO = "Hello, who are you?"
TOOLS: list[Any] = [showcase.BOOKING]


@pytest.fixture
def client(server: Running) -> Iterator[cohere.Client]:
    with server.client() as opened:
        yield cohere.Client(api_key="none", base_url=server.url, httpx_client=opened)


def test_a_plain_reply(client: cohere.Client) -> None:
    answer = client.chat(message=HELLO, temperature=0)
    assert answer.text.startswith("I am the demo model")
    assert answer.finish_reason == "COMPLETE"
    assert answer.citations is None
    assert [(turn.role, turn.message) for turn in answer.chat_history or []] == [  # type: ignore[union-attr]
        ("USER", HELLO),
        ("CHATBOT", answer.text),
    ]
    assert answer.meta is not None
    assert answer.meta.tokens is not None
    assert answer.meta.tokens.output_tokens is not None
    assert answer.meta.tokens.output_tokens > 5


def test_the_prompt_has_preamble_history_and_message(client: cohere.Client, demo: CommandR) -> None:
    history: list[Any] = [{"role": "USER", "message": "Hello"}, {"role": "CHATBOT", "message": "Hi!"}]
    answer = client.chat(message=HELLO, preamble="Be brief.", chat_history=history, temperature=0)
    expected = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": HELLO},
    ]
    assert answer.meta is not None
    assert answer.meta.tokens is not None
    assert answer.meta.tokens.input_tokens == len(demo.prompt(expected).tokens)


@pytest.mark.parametrize("quality", ["accurate", "fast"])
def test_documents_are_cited_by_their_ids(client: cohere.Client, quality: Any) -> None:
    answer = client.chat(message=WHEN, documents=DOCUMENTS, citation_quality=quality, temperature=0)
    assert "1987" in answer.text
    [citation] = answer.citations or []
    assert answer.text[citation.start : citation.end] == citation.text
    assert citation.document_ids == ["bridge"]
    assert answer.documents == [DOCUMENTS[0]]
    assert not client.chat(message=WHEN, documents=DOCUMENTS, citation_quality="off", temperature=0).citations


def test_a_stream_has_cohere_s_events_in_their_order(client: cohere.Client) -> None:
    events: list[Any] = list(client.chat_stream(message=WHEN, documents=DOCUMENTS, temperature=0))
    whole = client.chat(message=WHEN, documents=DOCUMENTS, temperature=0)
    kinds = [event.event_type for event in events]
    assert (kinds[0], kinds[-1]) == ("stream-start", "stream-end")
    assert set(kinds[1:-1]) == {"text-generation", "citation-generation"}
    assert "".join(event.text for event in events if event.event_type == "text-generation") == whole.text
    found = [one for event in events if event.event_type == "citation-generation" for one in event.citations]
    assert found == whole.citations
    end = events[-1]
    assert end.finish_reason == "COMPLETE"
    assert end.response.text == whole.text
    assert end.response.citations == whole.citations
    assert end.response.generation_id == events[0].generation_id


def test_tools_are_called_and_their_results_answered(client: cohere.Client) -> None:
    answer = client.chat(message=showcase.TOOL_QUESTION, tools=TOOLS, temperature=0)
    [call] = answer.tool_calls or []
    assert (call.name, call.parameters) == ("book_table", {"people": 14, "name": "Ilse Tarn"})
    streamed: list[Any] = list(client.chat_stream(message=showcase.TOOL_QUESTION, tools=TOOLS, temperature=0))
    assert [event.tool_calls for event in streamed if event.event_type == "tool-calls-generation"] == [[call]]
    results: list[Any] = [{"call": call, "outputs": [{"answer": "The table for Ilse Tarn was booked at 7 PM."}]}]
    for history, message in (([], showcase.TOOL_QUESTION), (answer.chat_history, "")):
        last = client.chat(
            message=message,
            chat_history=history,
            tools=TOOLS,
            tool_results=results,
            force_single_step=True,
            max_tokens=200,
            temperature=0,
        )
        assert last.text
        for citation in last.citations or []:
            assert last.text[citation.start : citation.end] == citation.text


def test_what_to_search_for_may_be_asked_alone(demo: CommandR) -> None:
    # The demo's model wants no search, unless it cannot spell that.
    biases = {i: -100.0 for i in range(len(demo.tokenizer)) if demo.tokenizer.token_bytes(i).startswith(b"d")}
    sampling = SamplingParams(temperature=0, logit_bias=biases)
    with running(demo, settings={"sampling": sampling}) as server, server.client() as opened:
        client = cohere.Client(api_key="none", base_url=server.url, httpx_client=opened)
        web = cohere.ChatConnector(id="web-search")
        options: dict[str, Any] = {"search_queries_only": True, "documents": DOCUMENTS, "max_tokens": 400}
        answer = client.chat(message=WHEN, connectors=[web], **options)
        events: list[Any] = list(client.chat_stream(message=WHEN, **options))
        cut = client.chat(message=WHEN, search_queries_only=True, max_tokens=3)
    assert answer.is_search_required
    queries = [query.text for query in answer.search_queries or []]
    assert queries
    assert (answer.text, answer.finish_reason) == ("", "COMPLETE")
    assert [event.event_type for event in events] == ["stream-start", "search-queries-generation", "stream-end"]
    assert [query.text for query in events[1].search_queries] == queries
    assert events[2].response.is_search_required
    assert (cut.is_search_required, cut.finish_reason) == (False, "MAX_TOKENS")


def test_what_needs_no_search_is_not_answered_either(client: cohere.Client, demo: CommandR) -> None:
    answer = client.chat(message=HELLO, search_queries_only=True, temperature=0)
    assert answer.is_search_required is False
    assert (answer.search_queries, answer.text) == ([], "")
    tokens: Any = answer.meta and answer.meta.tokens
    whole = demo.chat([{"role": "user", "content": HELLO}], tools=TOOLS, temperature=0)
    assert tokens.output_tokens < whole.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_raw_prompt_is_all_that_the_model_reads(client: cohere.Client, demo: CommandR, stream: bool) -> None:
    messages = [{"role": "user", "content": HELLO}]
    options: dict[str, Any] = {"raw_prompting": True, "temperature": 0}
    raw = demo.prompt(messages)
    answer: Any
    if stream:
        [*_, end] = client.chat_stream(message=raw.text, **options)
        answer = end.response  # type: ignore[union-attr]
    else:
        answer = client.chat(message=raw.text, **options)
    assert answer.text == demo.chat(messages, temperature=0).text
    assert answer.finish_reason == "COMPLETE"
    assert answer.meta.tokens.input_tokens == len(raw.tokens)
    with pytest.raises(cohere.BadRequestError, match="preamble cannot be given with raw_prompting"):
        client.chat(message=raw.text, preamble="Be brief.", **options)


def test_an_empty_message_is_refused(client: cohere.Client) -> None:
    with pytest.raises(cohere.BadRequestError, match="message is empty"):
        client.chat(message="")


def test_what_needs_cohere_s_services_is_refused(client: cohere.Client) -> None:
    with pytest.raises(cohere.BadRequestError, match="connectors is not supported"):
        client.chat(message=HELLO, connectors=[cohere.ChatConnector(id="web-search")])


def test_the_asynchronous_client(server: Running) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        async with cohere.AsyncClient(api_key="none", base_url=server.url) as client:
            events = [event async for event in client.chat_stream(message=HELLO, temperature=0)]
            return await client.chat(message=HELLO, temperature=0), events

    whole, events = asyncio.run(ask())
    assert events[-1].response.text == whole.text


# ---- tokens, models, keys


def test_tokens_go_both_ways(client: cohere.Client, demo: CommandR) -> None:
    text = "The harbor of Zürich <|END_OF_TURN_TOKEN|>"
    found = client.tokenize(text=text, model="demo", offline=False)
    assert found.tokens == demo.tokenize(text)
    assert len(found.token_strings) == len(found.tokens)
    assert client.detokenize(tokens=found.tokens, model="demo", offline=False).text == text
    with pytest.raises(cohere.BadRequestError, match="text is empty"):
        client.tokenize(text="", model="demo", offline=False)
    for token in (-1, 10**9):
        with pytest.raises(cohere.BadRequestError, match="a token must be 0 to 4095"):
            client.detokenize(tokens=[token], model="demo", offline=False)


def test_the_model_is_listed(client: cohere.Client, server: Running) -> None:
    [model] = client.models.list().models
    assert (model.name, model.context_length) == ("demo", 4096)
    assert model.endpoints == ["chat", "embed"]
    assert client.models.list(endpoint="rerank").models == []
    assert client.models.get("demo").name == "demo"
    with pytest.raises(cohere.NotFoundError, match="there is no model 'other'"):
        client.models.get("other")
    with server.client() as plain:
        listed = plain.get("/v1/models").json()
    assert (listed["object"], [one["id"] for one in listed["data"]]) == ("list", ["demo"])


def test_the_key_is_checked(server: Running) -> None:
    with server.client() as opened:
        client = BaseCohere(token="none", base_url=server.url, httpx_client=opened)
        assert client.check_api_key().valid


# ---- embeddings


def test_embeddings_are_the_model_s(server: Running, demo: CommandR) -> None:
    texts = ["The harbor", "A lighthouse of stone " * 40]
    with server.client() as opened:
        client = cohere.ClientV2(api_key="none", base_url=server.url, httpx_client=opened)
        answer = client.embed(
            texts=texts,
            model="demo",
            input_type="search_document",
            embedding_types=["float", "base64", "binary", "ubinary"],
        )
    rows = np.array(answer.embeddings.float_, dtype=np.float32)
    assert rows.shape == (2, demo.model.hparams.n_embd)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.allclose(rows, demo.embed(texts), atol=1e-4)
    [first, _] = answer.embeddings.base64 or []
    assert np.array_equal(np.frombuffer(base64.b64decode(first), "<f4"), rows[0])
    bits = np.packbits(rows > 0, axis=1)
    assert np.array_equal(np.array(answer.embeddings.ubinary), bits)
    assert np.array_equal(np.array(answer.embeddings.binary), bits.astype(int) - 128)
    assert answer.texts == texts


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")  # the client joins batches so
def test_version_1_gives_rows_unless_types_are_named(client: cohere.Client, demo: CommandR) -> None:
    texts = ["The harbor", "A lighthouse of stone"]
    rows: Any = client.embed(texts=texts, model="demo", input_type="search_query")
    assert rows.response_type == "embeddings_floats"
    assert np.allclose(rows.embeddings, demo.embed(texts), atol=1e-4)
    typed: Any = client.embed(texts=texts, model="demo", input_type="search_query", embedding_types=["float", "binary"])
    assert typed.response_type == "embeddings_by_type"
    assert np.allclose(typed.embeddings.float_, rows.embeddings, atol=1e-4)
    assert np.array(typed.embeddings.binary).shape == (2, demo.model.hparams.n_embd // 8)


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"texts": []}, "there must be 1 to 96 texts, not 0"),
        ({"texts": ["a"] * 97}, "there must be 1 to 96 texts, not 97"),
        ({"texts": ["a"], "embedding_types": ["int8"]}, "embedding_types may be float, base64, ubinary, binary"),
        ({"texts": ["a"], "output_dimension": 64}, "output_dimension must be 256"),
        ({"texts": ["a"], "max_tokens": 0}, "max_tokens must be 1 or more, not 0"),
        ({"texts": ["a"], "max_tokens": -1}, "max_tokens must be 1 or more, not -1"),
        ({"texts": ["word " * 5000], "truncate": "NONE"}, "more than allowed"),
        ({"images": ["data:,"]}, "images cannot be embedded"),
        ({"inputs": [{"content": [{"type": "image_url"}]}]}, "inputs[0] must have parts of text"),
    ],
)
def test_embeddings_that_cannot_be_are_refused(server: Running, path: str, body: dict[str, Any], message: str) -> None:
    with server.client() as client:
        answer = client.post(path, json={"model": "demo", "input_type": "classification", **body})
        assert answer.status_code == 400
        assert message in answer.json()["message"]


def test_long_texts_are_cut_at_the_end_that_is_named(server: Running, demo: CommandR) -> None:
    text = "one two three four five six seven eight"
    tokens = demo.tokenize(text, add_special=True)
    with server.client() as client:
        for truncate, kept in (("END", tokens[:6]), ("START", [tokens[0], *tokens[-5:]])):
            body = {"model": "demo", "texts": [text], "max_tokens": 6, "truncate": truncate, "input_type": "x"}
            found = client.post("/v2/embed", json=body).json()["embeddings"]["float"][0]
            demo.session.eval(kept, n_outputs=6, logits=False, hidden=True)
            mean = demo.session.hidden().sum(axis=0)
            assert np.allclose(found, mean / np.linalg.norm(mean), atol=1e-4)
