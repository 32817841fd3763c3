"""Well-formed replies are read as cohere-melody, Cohere's own parser, reads them."""

from __future__ import annotations

import json

import cohere_melody
from hypothesis import given
from hypothesis import strategies as st

from chat.replies import calls, citations, planned, shown, whole
from commandr_gguf import Citation, ToolCall

WORD = st.text(st.sampled_from("abÜ한😀é"), min_size=1, max_size=6)
SPANS = st.lists(st.tuples(WORD, st.integers(0, 30), WORD), min_size=1, max_size=5)
VALUES = st.one_of(
    st.booleans(), st.integers(), WORD, st.lists(WORD, max_size=2), st.dictionaries(WORD, WORD, max_size=2)
)
PARAMETERS = st.dictionaries(WORD, VALUES, min_size=1, max_size=3)


@given(SPANS, st.booleans())
def test_grounded_answers(spans: list[tuple[str, int, str]], accurate: bool) -> None:
    reply = "Relevant Documents: 0,1\nCited Documents: 0\n" + "Answer: It was so.\n" * accurate + "Grounded answer: "
    reply += " ".join(f"{before} <co: {number}>{span}</co: {number}>" for before, number, span in spans)
    result = cohere_melody.PyFilter(cohere_melody.PyFilterOptions().rag()).process_full_text(reply)
    space = not accurate  # which melody leaves in front
    events = whole("grounded", reply)
    assert shown(events) == (result.content or "")[space:]
    assert citations(events) == [
        Citation(
            citation.start_index - space,
            citation.end_index - space,
            citation.text,
            tuple(citation.sources[0].tool_result_indices),
        )
        for citation in result.citations
    ]


@given(WORD, st.lists(st.tuples(WORD, PARAMETERS), min_size=1, max_size=3))
def test_plans_and_actions(plan: str, actions: list[tuple[str, dict[str, object]]]) -> None:
    values = [{"tool_name": name, "parameters": parameters} for name, parameters in actions]
    reply = f"Plan: {plan}\nAction: ```json\n{json.dumps(values, indent=4, ensure_ascii=False)}\n```"
    options = cohere_melody.PyFilterOptions().multi_hop().stream_tool_actions()
    result = cohere_melody.PyFilter(options).process_full_text(reply)
    events = whole("multi_step", reply)
    assert planned(events) == result.reasoning == plan
    assert calls(events) == [ToolCall(call.name, json.loads(call.arguments)) for call in result.tool_calls]
    assert calls(events) == [ToolCall(name, parameters) for name, parameters in actions]
