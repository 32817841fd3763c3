"""Chunks and events of what the embedded model never writes: plans, several calls, text behind them."""

from __future__ import annotations

from typing import Any

import pydantic
from openai.lib.streaming._deltas import accumulate_delta
from openai.types.responses import Response, ResponseStreamEvent

from commandr_gguf import CommandR
from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.events import Event, Plan, Text
from commandr_gguf.chat.visible import Citation, Source
from commandr_gguf.server.asked import Asked
from commandr_gguf.server.engine import Engine
from commandr_gguf.server.openai.chat import ChoiceWriter
from commandr_gguf.server.openai.response_events import ResponseWriter
from commandr_gguf.server.settings import Settings
from commandr_gguf.server.state import State

ASKED = Asked([], {}, stream=True, document_ids=frozenset({"a"}), cites=True, thinks_aloud=True)
HEAD: dict[str, Any] = {"id": "resp_1", "object": "response", "created_at": 1, "model": "demo", "tools": []}
HEAD |= {"parallel_tool_calls": True, "tool_choice": "auto"}
WRITTEN: list[list[Event]] = [
    [Plan("I look ")],
    [Plan("it up."), ToolCall("find", {"what": "é"}), ToolCall("now", {})],
    [Text("It is "), Text("open.")],
    [Citation(6, 10, "open", (0,), (Source("a", {"text": "Open."}),))],
]


def response_events(written: list[list[Event]]) -> tuple[list[dict[str, Any]], ResponseWriter]:
    writer = ResponseWriter(HEAD, ASKED, tokenizer=None)  # type: ignore[arg-type]  # there is nothing to spell
    kind: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
    events = []
    for source in (writer.begin(), *(writer.write(step, []) for step in written), writer.close()):
        for event in source:
            kind.validate_json(pydantic.TypeAdapter(dict).dump_json(event), strict=True)
            events.append(event)
    return events, writer


def test_a_response_has_an_item_for_each_thing_that_was_written() -> None:
    events, writer = response_events(WRITTEN)
    response = writer.response("completed")
    Response.model_validate_json(pydantic.TypeAdapter(dict).dump_json(response), strict=True)
    assert [item["type"] for item in response["output"]] == ["reasoning", "function_call", "function_call", "message"]
    assert [item["status"] for item in response["output"]] == ["completed"] * 4
    thought, found, _, message = response["output"]
    assert thought["content"][0]["text"] == "I look it up."
    assert found["arguments"] == '{"what": "é"}'
    assert message["content"][0]["text"] == "It is open."
    assert [event["output_index"] for event in events[2:]] == [0] * 7 + [1] * 4 + [2] * 4 + [3] * 8
    assert [event["type"] for event in events[2:9]] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]


def test_a_citation_belongs_to_the_last_text_even_behind_a_plan() -> None:
    events, writer = response_events([*WRITTEN[2:3], [Plan("Well.")], WRITTEN[3]])
    cited = next(event for event in events if "citations" in event)
    message = writer.response("completed")["output"][0]
    assert (cited["item_id"], cited["output_index"]) == (message["id"], 0)
    assert message["content"][0]["citations"] == cited["citations"]


def test_a_chunk_holds_all_that_one_step_gave(demo: CommandR) -> None:
    writer = ChoiceWriter(1, ASKED, State(Engine(demo), Settings()))
    deltas = [choice["delta"] for step in WRITTEN for choice in writer.write(step, [])]
    assert [set(delta) for delta in deltas] == [
        {"reasoning_content"},
        {"reasoning_content", "tool_calls"},
        {"content"},
        {"citations"},
    ]
    assert [(call["index"], call["function"]["name"]) for call in deltas[1]["tool_calls"]] == [(0, "find"), (1, "now")]
    assert deltas[2]["content"] == "It is open."
    assert list(writer.write([], [])) == []


def test_the_client_s_own_reader_joins_citations_of_several_chunks(demo: CommandR) -> None:
    writer = ChoiceWriter(0, ASKED, State(Engine(demo), Settings()))
    second = Citation(0, 2, "It", (0,), (Source("b", {"text": "It."}),))
    joined: dict[object, object] = {}
    steps: list[list[Event]] = [*WRITTEN, [second]]
    for step in steps:
        for choice in writer.write(step, []):
            joined = accumulate_delta(joined, choice["delta"])
    citations: Any = joined["citations"]
    assert [(citation["index"], citation["text"]) for citation in citations] == [(0, "open"), (1, "It")]
    assert [source["type"] for citation in citations for source in citation["sources"]] == ["document", "tool"]
