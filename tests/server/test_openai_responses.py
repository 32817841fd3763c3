"""/v1/responses, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from commandr_gguf import CommandR
from server.openai_asking import AGE, BOOK, DOCUMENTS, GREEDY, HELLO, SWITCH, TABLE, WHEN, asking
from server.serving import Running

TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
WHO = HELLO[0]["content"]


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with asking(server) as opened:
        yield opened


def tool(described: dict[str, Any]) -> Any:
    return {"type": "function", **described}


def without_repeats(names: Sequence[str]) -> list[str]:
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def test_a_text_is_answered(client: openai.OpenAI, demo: CommandR) -> None:
    answer = client.responses.create(input=WHO, **GREEDY)
    assert (answer.status, answer.model, answer.object) == ("completed", "demo", "response")
    assert answer.output_text.startswith("I am the demo model")
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(demo.prompt(HELLO).tokens)
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    again = client.responses.create(input=WHO, **GREEDY)
    assert again.usage is not None
    assert again.usage.input_tokens_details.cached_tokens >= answer.usage.input_tokens - 2


def test_instructions_and_items_make_the_conversation_that_messages_make(client: openai.OpenAI) -> None:
    def n_input(**options: Any) -> int:
        usage = client.responses.create(max_output_tokens=1, **options, **GREEDY).usage
        return int(usage.input_tokens)

    messages = [{"role": "system", "content": "Be short."}, *HELLO]
    chat: Any = client.chat.completions.create(messages=messages, max_tokens=1, **GREEDY)
    assert n_input(input=WHO, instructions="Be short.") == chat.usage.prompt_tokens
    part = {"type": "input_text", "text": WHO}
    items = [{"role": "developer", "content": "Be short."}, {"type": "message", "role": "user", "content": [part]}]
    assert n_input(input=items) == chat.usage.prompt_tokens


def test_the_effort_of_reasoning_is_told_and_checked(client: openai.OpenAI) -> None:
    answer = client.responses.create(input=WHO, reasoning={"effort": "none"}, max_output_tokens=1, **GREEDY)
    assert answer.reasoning is not None
    assert answer.reasoning.effort == "none"
    wrong: Any = {"effort": 1}
    with pytest.raises(openai.BadRequestError, match="reasoning.effort must be a string"):
        client.responses.create(input=WHO, reasoning=wrong, **GREEDY)


def test_a_stream_has_openai_s_events_in_their_order(client: openai.OpenAI) -> None:
    events: list[Any] = list(client.responses.create(input=WHO, stream=True, **GREEDY))
    assert without_repeats([event.type for event in events]) == TEXT_EVENTS
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1].response
    whole = client.responses.create(input=WHO, **GREEDY)
    assert last.output_text == whole.output_text
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == last.output_text
    assert events[0].response.id == last.id
    assert (events[0].response.status, events[0].response.output) == ("in_progress", [])
    assert {event.item_id for event in events if hasattr(event, "item_id")} == {last.output[0].id}


def test_tools_are_called_and_their_results_are_answered(client: openai.OpenAI) -> None:
    first = client.responses.create(input=BOOK, tools=[tool(TABLE)], **GREEDY)
    [call] = first.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("book_table", {"people": 14, "name": "Ilse Tarn"})
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "The table was booked at 7 PM."}
    items: Any = [*BOOK, *(item.to_dict() for item in first.output), output]
    last = client.responses.create(input=items, max_output_tokens=200, **GREEDY)
    assert last.output
    stray: Any = [*BOOK, {**output, "call_id": "other"}]
    with pytest.raises(openai.BadRequestError, match="the result of the call 'other', which no message before it has"):
        client.responses.create(input=stray, **GREEDY)


def test_thoughts_are_shown_in_front_of_the_calls_that_they_led_to(client: openai.OpenAI) -> None:
    thought: Any = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "I book it."}]}
    call: Any = {"type": "function_call", "call_id": "1", "name": "book_table", "arguments": "{}"}
    output: Any = {"type": "function_call_output", "call_id": "1", "output": "Done."}
    sizes = [
        client.responses.create(input=items, max_output_tokens=1, **GREEDY).usage.input_tokens
        for items in ([*BOOK, call, output], [*BOOK, thought, call, output])
    ]
    assert sizes[1] > sizes[0]


def test_calls_are_streamed_for_the_client_s_own_reader(client: openai.OpenAI) -> None:
    with client.responses.stream(input=BOOK, tools=[tool({**TABLE, "strict": True})], **GREEDY) as stream:
        names = [event.type for event in stream]
        final = stream.get_final_response()
    assert without_repeats(names) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    [call] = final.output
    assert call.type == "function_call"
    assert call.parsed_arguments == {"people": 14, "name": "Ilse Tarn"}


def test_a_named_tool_is_called(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "name": "light"}
    answer = client.responses.create(input=BOOK, tools=[tool(TABLE), tool(SWITCH)], tool_choice=choice, **GREEDY)
    assert {item.name for item in answer.output if item.type == "function_call"} == {"light"}


def test_documents_are_cited_in_a_field_of_the_text(client: openai.OpenAI) -> None:
    extra = {"documents": DOCUMENTS}
    answer: Any = client.responses.create(input=WHEN, extra_body=extra, **GREEDY)
    content = answer.output[0].content[0]
    [citation] = content.citations
    assert content.text[citation["start"] : citation["end"]] == citation["text"]
    assert [source["id"] for source in citation["sources"]] == ["bridge"]
    events: list[Any] = list(client.responses.create(input=WHEN, extra_body=extra, stream=True, **GREEDY))
    found = [event.citations for event in events if getattr(event, "citations", None)]
    assert found == [[citation]]
    assert events[-1].response.output[0].content[0].citations == [citation]


def test_parse_gives_a_value_of_the_caller_s_type(client: openai.OpenAI) -> None:
    class Person(pydantic.BaseModel):
        age: int

    parsed = client.responses.parse(input=WHO, text_format=Person, **GREEDY).output_parsed
    assert isinstance(parsed, Person)
    form: Any = {"format": {"type": "json_schema", "name": "age", "schema": AGE}}
    assert list(json.loads(client.responses.create(input=WHO, text=form, **GREEDY).output_text)) == ["age"]


def test_a_reply_that_is_cut_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(input=WHO, max_output_tokens=3, **GREEDY)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    [item] = answer.output
    assert item.type == "message"
    assert item.status == "incomplete"
    events: list[Any] = list(client.responses.create(input=WHO, max_output_tokens=3, stream=True, **GREEDY))
    assert events[-1].type == "response.incomplete"


def test_log_probabilities(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"input": WHO, "include": ["message.output_text.logprobs"], "top_logprobs": 2, **GREEDY}
    answer = client.responses.create(**options)
    [item] = answer.output
    assert item.type == "message"
    [content] = item.content
    assert content.type == "output_text"
    assert "".join(one.token for one in content.logprobs or []).strip() == content.text
    events: list[Any] = list(client.responses.create(stream=True, **options))
    assert events[-1].response.output[0].content[0].logprobs == content.logprobs


@pytest.mark.parametrize(
    "body",
    [
        {"input": WHO, "top_logprobs": 1, "instructions": "Be short.", "metadata": {"a": "b"}},
        {"input": WHEN, "documents": DOCUMENTS},
        {"input": BOOK, "tools": [tool(TABLE)], "tool_choice": {"type": "function", "name": "book_table"}},
        {"input": WHO, "max_output_tokens": 0},
        {"input": WHO, "text": {"format": {"type": "json_schema", "name": "age", "schema": AGE}}},
    ],
)
def test_answers_are_of_the_client_s_own_types(server: Running, body: dict[str, Any]) -> None:
    """Checked strictly, unlike in the client, which takes what it is given."""
    with server.client() as plain:
        whole = plain.post("/v1/responses", json={**GREEDY, **body})
        Response.model_validate_json(whole.text, strict=True)
        streamed = plain.post("/v1/responses", json={**GREEDY, **body, "stream": True})
    kind: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
    for block in streamed.text.strip().split("\n\n"):
        name, data = (line.partition(": ")[2] for line in block.split("\n"))
        assert kind.validate_json(data, strict=True).type == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": WHO, "previous_response_id": "resp_1"}, "previous_response_id is not supported"),
        ({"input": WHO, "background": True}, "background is not supported"),
        ({"input": WHO, "tools": [{"type": "web_search"}]}, "tool 0 must be an object of the type function"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "has the type 'item_reference', which is not supported"),
        ({"input": [1]}, "must be an object, not 1"),
        ({"input": 7}, "input must be a list"),
        ({}, "input is missing"),
    ],
)
def test_what_is_not_plain_is_refused_with_a_sentence(
    client: openai.OpenAI, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        client.responses.create(**options, **GREEDY)


def test_the_asynchronous_client(server: Running) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1") as client:
            stream = await client.responses.create(input=WHO, stream=True, **GREEDY)
            events = [event async for event in stream]
            return await client.responses.create(input=WHO, **GREEDY), events

    whole, events = asyncio.run(ask())
    assert events[-1].response.output_text == whole.output_text
