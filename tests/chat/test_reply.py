"""A reply is built from its events and becomes JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import pytest

from chat.replies import whole
from commandr_gguf import Citation, ToolCall
from commandr_gguf.chat.events import Finish, SearchQuery, Text
from commandr_gguf.chat.reply import Reply, resolve, sources
from commandr_gguf.chat.reply_builder import ReplyBuilder
from commandr_gguf.chat.visible import Source
from commandr_gguf.usage import Timings, Usage

RAW = (
    "Relevant Documents: 0,1\nCited Documents: 1\nAnswer: It was 1987.\n"
    "Grounded answer: It <co: 0>was <co: 1,7>1987</co: 1,7></co: 0>."
)
DOCUMENTS = [{"title": "Bridge"}, {"text": "Opened in 1987."}]


@dataclass
class Logprob:
    token: int = 3
    logprob: float = -0.5
    top: list[tuple[int, float]] = field(default_factory=lambda: [(3, -0.5), (4, -math.inf)])


def built() -> Reply:
    builder = ReplyBuilder(sources(DOCUMENTS, ["a", "b"]))
    for event in whole("grounded", RAW):
        builder.add(event)
    return builder.build(
        finish_reason="stop",
        usage=Usage(prompt_tokens=3),
        timings=Timings(decode_tokens=2),
        raw_text=RAW,
        tokens=[3],
        logprobs=[Logprob()],
    )


def test_a_reply_has_all_that_its_events_had() -> None:
    reply = built()
    assert (reply.text, str(reply), reply.answer, reply.plan) == ("It was 1987.", "It was 1987.", "It was 1987.", "")
    assert [(citation.start, citation.text, citation.documents) for citation in reply.citations] == [
        (3, "was 1987", (0,)),
        (7, "1987", (1, 7)),
    ]
    assert (reply.documents_relevant, reply.documents_cited) == ([0, 1], [1])
    assert (reply.finish_reason, reply.raw_text, reply.tokens) == ("stop", RAW, [3])
    assert (reply.usage.prompt_tokens, reply.timings.decode_tokens) == (3, 2)
    assert Finish(reply).reply is reply


def test_citations_have_the_documents_that_exist() -> None:
    first, second = built().citations
    assert first.sources == (Source("a", DOCUMENTS[0]),)
    assert second.sources == (Source("b", DOCUMENTS[1]),)


@pytest.mark.parametrize(
    ("numbers", "ids"), [((), []), ((1, 0), ["1", "0"]), ((2, 10**9), []), ((0, 5, 1), ["0", "1"])]
)
def test_numbers_of_no_document_stay_without_a_source(numbers: tuple[int, ...], ids: list[str]) -> None:
    citation = resolve(Citation(0, 1, "a", numbers), sources(DOCUMENTS))
    assert citation.documents == numbers
    assert [source.id for source in citation.sources] == ids


def test_a_builder_gives_events_on_as_a_caller_should_see_them() -> None:
    builder = ReplyBuilder(sources(DOCUMENTS))
    assert builder.add(Text("a")) == Text("a")
    assert builder.add(Citation(0, 1, "a", (1,))) == Citation(0, 1, "a", (1,), (Source("1", DOCUMENTS[1]),))


def test_a_reply_may_be_built_before_its_end() -> None:
    builder = ReplyBuilder()
    assert builder.build() == Reply()
    for event in (Text("a"), ToolCall("f"), SearchQuery(0, "q"), Text("b")):
        builder.add(event)
    cut = builder.build(finish_reason="cancelled")
    assert (cut.text, cut.tool_calls, cut.search_queries, cut.answer) == ("ab", [ToolCall("f")], ["q"], None)
    builder.add(Text("c"))
    assert (cut.text, builder.build().text) == ("ab", "abc")


def test_a_reply_becomes_strict_json() -> None:
    values = built().to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["citations"][1] == {
        "start": 7,
        "end": 11,
        "text": "1987",
        "documents": [1, 7],
        "sources": [{"id": "b", "document": {"text": "Opened in 1987."}}],
    }
    assert values["logprobs"] == [{"token": 3, "logprob": -0.5, "top": [[3, -0.5], [4, None]]}]
    assert values["usage"]["prompt_tokens"] == 3
    assert ReplyBuilder().build().to_dict()["finish_reason"] is None


def test_calls_become_json() -> None:
    reply = Reply(tool_calls=[ToolCall("f", {"x": [1, None]}, "7")])
    assert reply.to_dict()["tool_calls"] == [{"name": "f", "parameters": {"x": [1, None]}, "id": "7"}]


def test_citations_may_be_members_of_sets() -> None:
    assert len({*built().citations, *built().citations}) == 2
