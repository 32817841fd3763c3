"""/v2/chat, asked by Cohere's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import cohere
import pydantic
import pytest

from commandr_gguf import CommandR
from commandr_gguf.demo import showcase
from server.openai_asking import TABLE, function
from server.serving import Running, running

DOCUMENTS: list[Any] = [
    {"id": "bridge", "data": {"title": "Velmora Bridge", "text": "The Velmora Bridge was opened in 1987."}},
    {"data": {"title": "Harrow Library", "text": "The Harrow Library is headed by Nora Quill."}},
]
WHEN: list[Any] = [{"role": "user", "content": "When was the Velmora Bridge opened?"}]
HELLO: list[Any] = [{"role": "user", "content": "Hello, who are you?"}]
TOOLS: list[Any] = [function(TABLE)]
BOOK: list[Any] = [{"role": "user", "content": showcase.TOOL_QUESTION}]
GREEDY: dict[str, Any] = {"model": "demo", "temperature": 0}


@pytest.fixture(autouse=True)
def no_warning(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The client says by a warning of the root logger that it has skipped what it cannot read."""
    yield
    assert [record.getMessage() for record in caplog.records if record.name == "root"] == []


@pytest.fixture
def client(server: Running) -> Iterator[cohere.ClientV2]:
    with server.client() as opened:
        yield cohere.ClientV2(api_key="none", base_url=server.url, httpx_client=opened)


def text_of(events: list[Any]) -> str:
    return "".join(event.delta.message.content.text for event in events if event.type == "content-delta")


def test_a_plain_reply(client: cohere.ClientV2, demo: CommandR) -> None:
    expected = demo.prompt(HELLO)
    answer = client.chat(messages=HELLO, **GREEDY)
    assert answer.finish_reason == "COMPLETE"
    assert answer.message.role == "assistant"
    [content] = answer.message.content or []
    assert content.type == "text"
    assert content.text.startswith("I am the demo model")
    assert answer.message.citations is None
    assert answer.message.tool_calls is None
    assert answer.usage is not None
    assert answer.usage.tokens is not None
    assert answer.usage.tokens.input_tokens == len(expected.tokens)
    assert answer.usage.tokens.output_tokens == answer.usage.billed_units.output_tokens > 5  # type: ignore[union-attr, operator]


def test_a_stream_has_cohere_s_events_in_their_order(client: cohere.ClientV2) -> None:
    events = list(client.chat_stream(messages=HELLO, **GREEDY))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message-start", "content-start"]
    assert kinds[-2:] == ["content-end", "message-end"]
    assert set(kinds[2:-2]) == {"content-delta"}
    assert len(kinds) > 8
    assert {event.index for event in events[1:-1]} == {0}  # type: ignore[union-attr]
    assert events[0].id == events[-1].id  # type: ignore[union-attr]
    whole = client.chat(messages=HELLO, **GREEDY)
    assert text_of(events) == whole.message.content[0].text  # type: ignore[index, union-attr]
    delta: Any = events[-1].delta  # type: ignore[union-attr]
    assert delta.finish_reason == "COMPLETE"
    assert delta.usage.tokens == whole.usage.tokens  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", [None, "ENABLED", "ACCURATE", "FAST"])
def test_documents_are_cited_by_their_ids(client: cohere.ClientV2, mode: str | None) -> None:
    options: dict[str, Any] = {} if mode is None else {"citation_options": cohere.CitationOptions(mode=mode)}
    answer = client.chat(messages=WHEN, documents=DOCUMENTS, **options, **GREEDY)
    text = answer.message.content[0].text  # type: ignore[index, union-attr]
    assert "1987" in text
    for citation in answer.message.citations or []:
        assert text[citation.start : citation.end] == citation.text
    [source] = [source for citation in answer.message.citations or [] for source in citation.sources or []]
    assert (source.type, source.id) == ("document", "bridge")
    assert source.document == {"id": "bridge", **DOCUMENTS[0]["data"]}  # type: ignore[union-attr]


def test_citations_can_be_left_out(client: cohere.ClientV2) -> None:
    answer = client.chat(
        messages=WHEN, documents=DOCUMENTS, citation_options=cohere.CitationOptions(mode="OFF"), **GREEDY
    )
    assert "1987" in answer.message.content[0].text  # type: ignore[index, union-attr]
    assert answer.message.citations is None
    events = list(
        client.chat_stream(messages=WHEN, documents=DOCUMENTS, citation_options={"mode": "OFF"}, **GREEDY)  # type: ignore[arg-type]
    )
    assert not any(event.type.startswith("citation") for event in events)


def test_citations_are_streamed_behind_the_text_they_are_of(client: cohere.ClientV2) -> None:
    events: list[Any] = list(client.chat_stream(messages=WHEN, documents=DOCUMENTS, **GREEDY))
    whole = client.chat(messages=WHEN, documents=DOCUMENTS, **GREEDY)
    found = []
    text = ""
    for number, event in enumerate(events):
        if event.type == "content-delta":
            text += event.delta.message.content.text
        if event.type == "citation-start":
            citation = event.delta.message.citations
            assert text[citation.start : citation.end] == citation.text
            assert (events[number + 1].type, events[number + 1].index) == ("citation-end", event.index)
            found.append(citation)
    assert found == whole.message.citations
    assert found


def test_strings_are_documents_too(client: cohere.ClientV2) -> None:
    answer = client.chat(messages=WHEN, documents=["The Velmora Bridge was opened in 1987."], **GREEDY)
    [citation] = answer.message.citations or []
    assert [source.id for source in citation.sources or []] == ["doc:0"]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": HELLO, "logprobs": True},
        {"messages": WHEN, "documents": DOCUMENTS},
        {"messages": BOOK, "tools": TOOLS},
        {"messages": HELLO, "max_tokens": 0},
    ],
)
def test_answers_are_of_the_client_s_own_types(server: Running, body: dict[str, Any]) -> None:
    """Checked, unlike in the client, which takes what it is given."""
    with server.client() as plain:
        whole = plain.post("/v2/chat", json={**GREEDY, **body}).json()
        cohere.V2ChatResponse.model_validate(whole)
        streamed = plain.post("/v2/chat", json={**GREEDY, **body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    kind: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(cohere.V2ChatStreamResponse)
    names = []
    for block in streamed.text.strip().split("\n\n"):
        name, data = (line.partition(": ")[2] for line in block.split("\n"))
        assert kind.validate_json(data).type == name
        names.append(name)
    assert (names[0], names[-1]) == ("message-start", "message-end")


# ---- tools


def test_tools_are_called_and_their_results_are_cited(client: cohere.ClientV2) -> None:
    answer = client.chat(messages=BOOK, tools=TOOLS, **GREEDY)
    assert answer.finish_reason == "TOOL_CALL"
    [call] = answer.message.tool_calls or []
    assert call.function is not None
    assert call.function.name == "book_table"
    assert json.loads(call.function.arguments or "") == {"people": 14, "name": "Ilse Tarn"}
    results: list[Any] = [
        {
            "role": "tool",
            "tool_call_id": call.id,
            "content": [{"type": "document", "document": {"data": '{"answer": "The table was booked at 7 PM."}'}}],
        }
    ]
    messages = [*BOOK, {"role": "assistant", "tool_calls": answer.message.tool_calls, "tool_plan": "I book."}, *results]
    last = client.chat(messages=messages, tools=TOOLS, max_tokens=200, **GREEDY)
    assert last.finish_reason in {"COMPLETE", "TOOL_CALL", "MAX_TOKENS"}
    for citation in last.message.citations or []:
        assert [source.type for source in citation.sources or []] == ["tool"]


def test_tool_calls_are_streamed_whole(client: cohere.ClientV2) -> None:
    events: list[Any] = list(client.chat_stream(messages=BOOK, tools=TOOLS, **GREEDY))
    kinds = [event.type for event in events if event.type != "tool-plan-delta"]
    assert kinds == ["message-start", "tool-call-start", "tool-call-delta", "tool-call-end", "message-end"]
    start, delta = events[-4].delta.message.tool_calls, events[-3].delta.message.tool_calls
    assert start.type == "function"
    assert start.id.startswith("book_table_")
    assert (start.function.name, start.function.arguments) == ("book_table", "")
    assert json.loads(delta.function.arguments) == {"people": 14, "name": "Ilse Tarn"}
    assert events[-1].delta.finish_reason == "TOOL_CALL"


def test_a_model_that_wants_no_tool_answers(client: cohere.ClientV2) -> None:
    answer = client.chat(messages=HELLO, tools=TOOLS, **GREEDY)
    assert answer.finish_reason == "COMPLETE"
    assert answer.message.content[0].text.startswith("I am")  # type: ignore[index, union-attr]


def test_a_tool_can_be_required_or_ruled_out(client: cohere.ClientV2) -> None:
    switch: Any = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    tools: Any = [{"type": "function", "function": {"name": "light", "description": "", "parameters": switch}}]
    assert client.chat(messages=HELLO, tools=tools, **GREEDY).message.tool_calls is None
    forced = client.chat(messages=HELLO, tools=tools, tool_choice="REQUIRED", max_tokens=2000, **GREEDY)
    assert {call.function.name for call in forced.message.tool_calls or []} == {"light"}  # type: ignore[union-attr]
    free = client.chat(messages=BOOK, tools=TOOLS, tool_choice="NONE", **GREEDY)
    assert free.message.tool_calls is None
    with pytest.raises(cohere.BadRequestError, match="tool_choice 'REQUIRED' needs tools"):
        client.chat(messages=HELLO, tool_choice="REQUIRED", **GREEDY)


# ---- options


def test_a_reply_in_json_keeps_to_the_schema(client: cohere.ClientV2) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    schema["additionalProperties"] = False
    form: Any = {"type": "json_object", "json_schema": schema}
    answer = client.chat(messages=HELLO, response_format=form, max_tokens=60, model="demo", seed=1)
    value = json.loads(answer.message.content[0].text)  # type: ignore[index, union-attr]
    assert list(value) == ["age"]
    assert isinstance(value["age"], int)
    with pytest.raises(cohere.BadRequestError, match="response_format cannot be given together with documents"):
        client.chat(messages=HELLO, response_format=form, documents=DOCUMENTS, **GREEDY)
    with pytest.raises(cohere.BadRequestError, match="keyword 'colour'"):
        client.chat(messages=HELLO, response_format={"type": "json_object", "json_schema": {"colour": 1}}, **GREEDY)  # type: ignore[arg-type]


def test_a_raw_prompt_is_all_that_the_model_reads(server: Running, demo: CommandR) -> None:
    raw = demo.prompt(HELLO).text
    with server.client() as plain:

        def ask(**body: Any) -> Any:
            return plain.post("/v2/chat", json={"raw_prompting": True, "logprobs": True, **GREEDY, **body})

        answer = ask(messages=[{"role": "user", "content": raw}], stop_sequences=["demo"]).json()
        assert (answer["finish_reason"], answer["message"]["content"][0]["text"]) == ("STOP_SEQUENCE", "I am the ")
        assert answer["logprobs"]
        for messages in ([*HELLO, *HELLO], [{"role": "assistant", "content": raw}], [{"role": "user", "content": ""}]):
            refused = ask(messages=messages)
            assert refused.status_code == 400
            assert "with raw_prompting there must be one message" in refused.json()["message"]


def test_a_model_that_cannot_think_aloud_need_not_be_kept_from_it(client: cohere.ClientV2) -> None:
    answer = client.chat(messages=HELLO, thinking=cohere.Thinking(type="disabled"), **GREEDY)
    assert answer.message.content == client.chat(messages=HELLO, **GREEDY).message.content
    with pytest.raises(cohere.BadRequestError, match="thinking cannot be enabled"):
        client.chat(messages=HELLO, thinking=cohere.Thinking(type="enabled"), **GREEDY)


def test_limits_and_stop_sequences_give_their_reasons(client: cohere.ClientV2) -> None:
    cut = client.chat(messages=HELLO, max_tokens=3, **GREEDY)
    assert cut.finish_reason == "MAX_TOKENS"
    assert cut.usage.tokens.output_tokens == 3  # type: ignore[union-attr]
    stopped = client.chat(messages=HELLO, stop_sequences=["demo"], **GREEDY)
    assert stopped.finish_reason == "STOP_SEQUENCE"
    assert stopped.message.content[0].text == "I am the "  # type: ignore[index, union-attr]
    events: list[Any] = list(client.chat_stream(messages=HELLO, stop_sequences=["demo"], **GREEDY))
    assert text_of(events) == "I am the "
    assert events[-1].delta.finish_reason == "STOP_SEQUENCE"


def test_a_seed_repeats_a_reply(client: cohere.ClientV2) -> None:
    options: dict[str, Any] = {"model": "demo", "temperature": 1.0, "k": 50, "p": 0.99, "max_tokens": 12}
    texts = [client.chat(messages=WHEN, seed=seed, **options).message for seed in (4, 4, 5, 6, 7)]
    assert texts[0] == texts[1]
    assert any(text != texts[0] for text in texts[2:])


def test_log_probabilities(client: cohere.ClientV2) -> None:
    answer = client.chat(messages=HELLO, logprobs=True, **GREEDY)
    items = answer.logprobs or []
    assert len(items) == answer.usage.tokens.output_tokens  # type: ignore[union-attr]
    assert all(item.logprobs is not None and item.logprobs[0] <= 0 for item in items)
    events: list[Any] = list(client.chat_stream(messages=HELLO, logprobs=True, **GREEDY))
    streamed = [event.logprobs for event in events if event.type == "content-delta" and event.logprobs]
    assert [token for item in streamed for token in item.token_ids] == [item.token_ids[0] for item in items]


def test_streamed_log_probabilities_of_steps_without_visible_text_come_with_the_next_text(
    client: cohere.ClientV2,
) -> None:
    options: dict[str, Any] = {**GREEDY, "documents": DOCUMENTS, "logprobs": True}
    whole = [item.token_ids[0] for item in client.chat(messages=WHEN, **options).logprobs or []]
    events: list[Any] = list(client.chat_stream(messages=WHEN, **options))
    streamed = [event.logprobs for event in events if event.type == "content-delta" and event.logprobs]
    tokens = [token for item in streamed for token in item.token_ids]
    assert tokens == whole[: len(tokens)]
    assert len(tokens) > sum(1 for event in events if event.type == "content-delta")


def test_a_safety_mode_that_the_model_lacks_is_refused(client: cohere.ClientV2) -> None:
    client.chat(messages=HELLO, safety_mode="CONTEXTUAL", max_tokens=1, **GREEDY)
    client.chat(messages=HELLO, safety_mode="OFF", max_tokens=1, **GREEDY)
    with pytest.raises(cohere.BadRequestError, match="safety_mode 'STRICT' is for Command R7B"):
        client.chat(messages=HELLO, safety_mode="STRICT", **GREEDY)


def test_the_asynchronous_client(server: Running) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        async with cohere.AsyncClientV2(api_key="none", base_url=server.url) as client:
            events = [event async for event in client.chat_stream(messages=WHEN, documents=DOCUMENTS, **GREEDY)]
            return await client.chat(messages=WHEN, documents=DOCUMENTS, **GREEDY), events

    whole, events = asyncio.run(ask())
    assert text_of(events) == whole.message.content[0].text
    assert whole.message.citations


def test_a_wrong_key_is_an_unauthorized_error(demo: CommandR) -> None:
    with running(demo, settings={"api_key": "right"}) as server, server.client() as opened:
        with pytest.raises(cohere.UnauthorizedError, match="missing or wrong"):
            cohere.ClientV2(api_key="wrong", base_url=server.url, httpx_client=opened).chat(messages=HELLO, **GREEDY)
        right = cohere.ClientV2(api_key="right", base_url=server.url, httpx_client=opened)
        assert right.chat(messages=HELLO, **GREEDY).message.content
