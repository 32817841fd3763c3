"""/v1/chat/completions, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from commandr_gguf import CommandR
from commandr_gguf.server.openai.options import of_choice
from server.openai_asking import AGE, BOOK, DOCUMENTS, GREEDY, HELLO, SWITCH, TABLE, WHEN, asking, function
from server.serving import Running, running


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with asking(server) as opened:
        yield opened


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return "".join(choice.delta.content or "" for choice in choices if choice.index == index)


def test_a_plain_reply(client: openai.OpenAI, demo: CommandR) -> None:
    answer = client.chat.completions.create(messages=HELLO, **GREEDY)
    [choice] = answer.choices
    assert (answer.model, choice.finish_reason, choice.message.role) == ("demo", "stop", "assistant")
    assert (choice.message.content or "").startswith("I am the demo model")
    assert choice.message.tool_calls is None
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens == len(demo.prompt(HELLO).tokens)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > usage.prompt_tokens + 5


def test_cached_tokens_of_the_prompt_are_counted(client: openai.OpenAI) -> None:
    answers = [client.chat.completions.create(messages=HELLO, **GREEDY) for _ in range(2)]
    usage: Any = answers[1].usage
    assert usage.prompt_tokens - 2 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


def test_a_stream_is_the_reply_in_chunks_of_one_id(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(messages=HELLO, stream=True, **GREEDY))
    whole = client.chat.completions.create(messages=HELLO, **GREEDY)
    assert text_of(chunks) == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    assert len(chunks) > 6


def test_a_stream_ends_with_numbers_of_tokens_when_asked(client: openai.OpenAI) -> None:
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(messages=HELLO, **options, **GREEDY))
    assert [bool(chunk.choices) for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    whole = client.chat.completions.create(messages=HELLO, **GREEDY)
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("mode", [None, "FAST"])
def test_documents_are_cited_in_a_field_of_the_message(client: openai.OpenAI, mode: str | None) -> None:
    extra = {"documents": DOCUMENTS} | ({"citation_options": {"mode": mode}} if mode else {})
    message: Any = client.chat.completions.create(messages=WHEN, extra_body=extra, **GREEDY).choices[0].message
    assert "1987" in message.content
    [citation] = message.citations
    assert message.content[citation["start"] : citation["end"]] == citation["text"]
    [source] = citation["sources"]
    assert (source["type"], source["id"]) == ("document", "bridge")
    assert source["document"]["text"] == DOCUMENTS[0]["data"]["text"]


def test_citations_can_be_left_out(client: openai.OpenAI) -> None:
    extra = {"documents": DOCUMENTS, "citation_options": {"mode": "OFF"}}
    for stream in (False, True):
        answer: Any = client.chat.completions.create(messages=WHEN, extra_body=extra, stream=stream, **GREEDY)
        told = "".join(chunk.to_json() for chunk in answer) if stream else answer.to_json()
        assert "1987" in told or stream
        assert "citations" not in told


def test_the_client_s_own_reader_of_streams_joins_citations(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(messages=WHEN, extra_body={"documents": DOCUMENTS}, **GREEDY) as stream:
        final: Any = stream.get_final_completion().choices[0].message
    whole: Any = client.chat.completions.create(messages=WHEN, extra_body={"documents": DOCUMENTS}, **GREEDY)
    assert final.citations == whole.choices[0].message.citations
    assert final.content == whole.choices[0].message.content


@pytest.mark.parametrize(
    "body",
    [
        {"messages": HELLO, "logprobs": True, "top_logprobs": 2, "n": 2},
        {"messages": WHEN, "documents": DOCUMENTS},
        {"messages": BOOK, "tools": [function(TABLE)], "stream_options": {"include_usage": True}},
        {"messages": HELLO, "max_tokens": 0},
    ],
)
def test_answers_are_of_the_client_s_own_types(server: Running, body: dict[str, Any]) -> None:
    """Checked strictly, unlike in the client, which takes what it is given."""
    with server.client() as plain:
        whole = plain.post("/v1/chat/completions", json={**GREEDY, **body})
        ChatCompletion.model_validate_json(whole.text, strict=True)
        streamed = plain.post("/v1/chat/completions", json={**GREEDY, **body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    blocks = streamed.text.strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    kind = pydantic.TypeAdapter(ChatCompletionChunk)
    for block in blocks:
        kind.validate_json(block.removeprefix("data: "), strict=True)


# ---- tools


def test_tools_are_called_and_their_results_are_cited(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(messages=BOOK, tools=[function(TABLE)], **GREEDY)
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "book_table"
    assert json.loads(call.function.arguments) == {"people": 14, "name": "Ilse Tarn"}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": '{"answer": "The table was booked at 7 PM."}'}
    messages = [*BOOK, choice.message, result]
    last: Any = client.chat.completions.create(messages=messages, max_tokens=200, **GREEDY).choices[0]
    assert last.message.content or last.message.tool_calls
    for citation in getattr(last.message, "citations", []):
        assert [source["type"] for source in citation["sources"]] == ["tool"]


def test_tool_calls_are_streamed_for_the_client_s_own_reader(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(messages=BOOK, tools=[function({**TABLE, "strict": True})], **GREEDY) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    [call] = final.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.parsed_arguments) == ("book_table", {"people": 14, "name": "Ilse Tarn"})
    assert call.id.startswith("call_")
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_model_that_wants_no_tool_answers(client: openai.OpenAI) -> None:
    [choice] = client.chat.completions.create(messages=HELLO, tools=[function(TABLE)], **GREEDY).choices
    assert choice.finish_reason == "stop"
    assert (choice.message.content or "").startswith("I am")


def test_tool_choice_rules_tools_out_requires_them_and_names_one(client: openai.OpenAI) -> None:
    tools = [function(TABLE), function(SWITCH)]

    def called(tool_choice: Any) -> set[str]:
        options: dict[str, Any] = {"tools": tools, "tool_choice": tool_choice, "max_tokens": 2000, **GREEDY}
        message = client.chat.completions.create(messages=BOOK, **options).choices[0].message
        return {call.function.name for call in message.tool_calls or []}

    light: Any = {"type": "function", "function": {"name": "light"}}
    assert called("none") == set()
    assert called("auto") == called("required") == {"book_table"}
    assert called(light) == {"light"}
    assert called({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [light]}}) == {"light"}
    for wrong, message in (
        ({"type": "function", "function": {"name": "lamp"}}, "names 'lamp', which is not among the tools"),
        ("any", "tool_choice must be none, auto, required or an object"),
        ({"type": "custom"}, "must have the type function or allowed_tools"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            called(wrong)
    with pytest.raises(openai.BadRequestError, match="tool_choice 'required' needs tools"):
        client.chat.completions.create(messages=BOOK, tool_choice="required", **GREEDY)


def test_one_call_at_most_where_parallel_calls_are_not_wanted(client: openai.OpenAI, demo: CommandR) -> None:
    # A model that likes commas goes on to the next call wherever it may.
    commas = {str(i): 50 for i in range(len(demo.tokenizer)) if demo.tokenizer.token_bytes(i).startswith(b",")}
    options: dict[str, Any] = {"tools": [function(SWITCH)], "tool_choice": "required", "logit_bias": commas, **GREEDY}
    several = client.chat.completions.create(messages=BOOK, max_tokens=300, **options).choices[0]
    assert len(several.message.tool_calls or []) > 1
    one = client.chat.completions.create(messages=BOOK, parallel_tool_calls=False, **options).choices[0]
    assert len(one.message.tool_calls or []) == 1


# ---- the form of an answer


def test_a_reply_in_json_keeps_to_the_schema(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "age", "schema": AGE, "strict": True}}
    text = client.chat.completions.create(messages=HELLO, response_format=form, **GREEDY).choices[0].message.content
    value = json.loads(text or "")
    assert list(value) == ["age"]
    assert isinstance(value["age"], int)
    free: Any = {"type": "json_object"}
    answer = client.chat.completions.create(messages=HELLO, response_format=free, max_tokens=300, **GREEDY)
    assert (answer.choices[0].message.content or "").startswith("{")
    for wrong, message in (
        ({"type": "xml"}, "response_format.type must be one of TEXT, JSON_OBJECT, JSON_SCHEMA"),
        (
            {"type": "json_schema", "json_schema": {"name": "a"}},
            "response_format of the type json_schema has no schema",
        ),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"colour": 1}}}, "keyword 'colour'"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            client.chat.completions.create(messages=HELLO, response_format=wrong, **GREEDY)  # type: ignore[call-overload]


def test_parse_gives_a_value_of_the_caller_s_type(client: openai.OpenAI) -> None:
    class Person(pydantic.BaseModel):
        age: int
        likes_tea: bool

    completion = client.chat.completions.parse(messages=HELLO, response_format=Person, **GREEDY)
    assert isinstance(completion.choices[0].message.parsed, Person)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(messages=HELLO, response_format=Person, max_tokens=2, **GREEDY)


def test_beside_tools_the_form_is_for_an_answer_without_calls(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "age", "schema": AGE}}
    options: Any = {"tools": [function(TABLE)], "response_format": form, **GREEDY}
    answered = client.chat.completions.create(messages=HELLO, **options).choices[0].message
    assert list(json.loads(answered.content or "")) == ["age"]
    called = client.chat.completions.create(messages=BOOK, **options).choices[0]
    assert called.finish_reason == "tool_calls"
    with pytest.raises(openai.BadRequestError, match="response_format cannot be given together with documents"):
        client.chat.completions.create(
            messages=WHEN, response_format=form, extra_body={"documents": DOCUMENTS}, **GREEDY
        )


# ---- options


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"modalities": [[]]}, "modalities may be ['text'] only"),
        ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tool 0 must be of the type function, not 'custom'"),
        ({"seed": -(1 << 63) - 1}, "seed must be"),
        ({"modalities": ["audio"]}, "modalities may be ['text'] only"),
        ({"max_completion_tokens": -1}, "max_completion_tokens must be 0 or more, not -1"),
        ({"max_tokens": 1 << 64}, "max_tokens must be 0 to"),
        ({"response_format": {"type": 1}}, "response_format.type must be a string"),
        ({"citation_options": {"mode": "LOUD"}}, "citation_options.mode must be one of ENABLED"),
    ],
)
def test_what_cannot_be_is_named(server: Running, body: dict[str, Any], message: str) -> None:
    with server.client() as plain:
        answer = plain.post("/v1/chat/completions", json={**GREEDY, "messages": HELLO, **body})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_several_replies_are_told_apart_by_their_index(client: openai.OpenAI) -> None:
    hot: dict[str, Any] = {"model": "any", "temperature": 1.5, "max_tokens": 12, "n": 3, "seed": 7}
    answer = client.chat.completions.create(messages=WHEN, **hot)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 12
    whole = [choice.message.content for choice in client.chat.completions.create(messages=WHEN, n=3, **GREEDY).choices]
    chunks = list(client.chat.completions.create(messages=WHEN, n=3, stream=True, **GREEDY))
    assert [text_of(chunks, i) for i in range(3)] == whole
    with pytest.raises(openai.BadRequestError, match="n asks for 69 replies, and this server takes 68 at once"):
        client.chat.completions.create(messages=WHEN, model="any", n=69)


def test_a_seed_may_be_negative(client: openai.OpenAI) -> None:
    hot: dict[str, Any] = {"messages": WHEN, "model": "any", "temperature": 1.5, "max_tokens": 12}
    texts = [
        client.chat.completions.create(seed=seed, **hot).choices[0].message.content for seed in (-1, -1, -(1 << 63))
    ]
    assert texts[0] == texts[1]


def test_each_of_several_replies_has_a_seed_of_its_own() -> None:
    assert [of_choice({"seed": 7, "top_k": 3}, i) for i in range(2)] == [
        {"seed": 7, "top_k": 3},
        {"seed": 8, "top_k": 3},
    ]
    assert of_choice({"seed": None}, 1) == {"seed": None}


def test_limits_and_stop_strings(client: openai.OpenAI) -> None:
    cut = client.chat.completions.create(messages=HELLO, max_completion_tokens=3, **GREEDY)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == 3
    for stop in ("demo", ["xyz", "demo"]):
        [stopped] = client.chat.completions.create(messages=HELLO, stop=stop, **GREEDY).choices
        assert (stopped.finish_reason, stopped.message.content) == ("stop", "I am the ")


def test_a_biased_token_is_not_written(client: openai.OpenAI, demo: CommandR) -> None:
    plain = client.chat.completions.create(messages=HELLO, logprobs=True, **GREEDY).choices[0]
    first = demo.chat(HELLO, temperature=0, max_tokens=1).tokens[0]
    other = client.chat.completions.create(messages=HELLO, logit_bias={str(first): -100}, **GREEDY).choices[0]
    assert (other.message.content or "")[:1] != (plain.message.content or "")[:1]
    for wrong in ({"a": 1}, {"-1": 1}, {"99999999": 1}, {"1": "x"}):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(messages=HELLO, logit_bias=wrong, **GREEDY)  # type: ignore[arg-type]


def test_log_probabilities_spell_the_reply(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"messages": HELLO, "logprobs": True, "top_logprobs": 3, **GREEDY}
    [choice] = client.chat.completions.create(**options).choices
    assert choice.logprobs is not None
    items = choice.logprobs.content or []
    assert b"".join(bytes(item.bytes or []) for item in items).decode().strip() == choice.message.content
    for item in items:
        assert [top.logprob for top in item.top_logprobs] == sorted(
            (t.logprob for t in item.top_logprobs), reverse=True
        )
        assert item.top_logprobs[0].token == item.token
        assert len(item.top_logprobs) == 3
    chunks = client.chat.completions.create(stream=True, **options)
    streamed = [chunk.choices[0].logprobs for chunk in chunks]
    assert [item for found in streamed if found for item in found.content or []] == items
    with pytest.raises(openai.BadRequestError, match="top_logprobs needs logprobs"):
        client.chat.completions.create(messages=HELLO, top_logprobs=1, **GREEDY)


def test_developers_are_the_system_and_parts_are_one_text(client: openai.OpenAI) -> None:
    system: Any = {"role": "system", "content": "Be short."}
    plain = client.chat.completions.create(messages=[system, *HELLO], **GREEDY)
    parts: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "short."}]},
        {"role": "user", "content": [{"type": "text", "text": HELLO[0]["content"]}]},
    ]
    same = client.chat.completions.create(messages=parts, **GREEDY)
    assert same.usage is not None
    assert plain.usage is not None
    assert same.usage.prompt_tokens == plain.usage.prompt_tokens
    assert same.choices[0].message.content == plain.choices[0].message.content
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]
    with pytest.raises(openai.BadRequestError, match="neither a string nor a list of text parts"):
        client.chat.completions.create(messages=image, **GREEDY)


def test_the_asynchronous_client(server: Running) -> None:
    async def ask() -> tuple[Any, list[Any]]:
        async with openai.AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1") as client:
            stream = await client.chat.completions.create(messages=HELLO, stream=True, **GREEDY)
            chunks = [chunk async for chunk in stream]
            return await client.chat.completions.create(messages=HELLO, **GREEDY), chunks

    whole, chunks = asyncio.run(ask())
    assert text_of(chunks) == whole.choices[0].message.content


def test_a_server_with_a_key_lists_its_model_to_who_has_it(demo: CommandR) -> None:
    with running(demo, settings={"api_key": "right", "model_alias": "demo"}) as server:
        with asking(server, api_key="wrong") as client:
            with pytest.raises(openai.AuthenticationError, match="missing or wrong") as caught:
                client.chat.completions.create(messages=HELLO, **GREEDY)
            assert caught.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        with asking(server, api_key="right") as client:
            assert [(model.id, model.object) for model in client.models.list()] == [("demo", "model")]
            assert client.models.retrieve("demo").owned_by == "local"
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve("other")
