"""One step of tools on the embedded model: calls, and an answer from what they gave, with citations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import embedded
from commandr_gguf import CommandR, Conversation, ToolCall, run_tools

QUESTION = [{"role": "user", "content": "Show me the population for the city of Harrow."}]
SMALL_TALK = "Who are you?"


def get_population(city: str) -> dict[str, str]:
    """Gets the population.

    Args:
        city: The city.
    """
    return {"title": city, "text": f"{city} has 12,000 people."}


@pytest.fixture(scope="module")
def demo() -> Iterator[CommandR]:
    with CommandR(embedded.path(), n_threads=1) as model:
        yield model


@pytest.mark.parametrize("citation_mode", ["accurate", "fast"])
def test_the_answer_cites_what_the_tool_gave(demo: CommandR, citation_mode: str) -> None:
    run = run_tools(demo, QUESTION, [get_population], multi_step=False, citation_mode=citation_mode, temperature=0)
    (step,) = run.steps
    assert [(result.call.name, result.call.parameters) for result in step.results] == [
        ("get_population", {"city": "Harrow"})
    ]
    assert run.stopped == "answer"
    assert "12,000 people" in run.reply.text
    (citation,) = run.reply.citations
    assert citation.text in "Harrow has 12,000 people."
    (source,) = citation.sources
    assert source.id == run.messages[2]["documents"][0]["id"]
    assert source.document == get_population("Harrow")
    assert (run.reply.answer is None) == (citation_mode == "fast")
    assert [message["role"] for message in run.messages] == ["user", "assistant", "tool", "assistant"]


def test_the_results_are_shown_as_documents_are(demo: CommandR) -> None:
    called = {"role": "assistant", "tool_calls": [ToolCall("get_population", {"city": "Harrow"})]}
    messages: list[Any] = [*QUESTION, called, {"role": "tool", "content": [get_population("Harrow")]}]
    shown = demo.prompt(messages, tools=[get_population], multi_step=False)
    assert shown == demo.prompt(QUESTION, documents=[get_population("Harrow")])


def test_a_request_for_no_tool_is_answered_directly(demo: CommandR) -> None:
    question = [{"role": "user", "content": SMALL_TALK}]
    run = run_tools(demo, question, [get_population], multi_step=False, temperature=0, max_tokens=200)
    assert (run.stopped, run.steps) == ("answer", [])
    assert run.reply.text == demo.chat(question, temperature=0).text


def test_a_conversation_goes_on_after_a_step(tmp_path: Path) -> None:
    """With a folder for prompts, whose beginnings are then looked for in each kind of prompt."""
    with CommandR(embedded.path(), n_threads=1, prompt_cache=tmp_path) as model:
        talk = Conversation(model, tools=[get_population], multi_step=False, temperature=0, max_tokens=200)
        list(talk.ask(QUESTION[0]["content"]))
        assert "12,000" in talk.turns[-1]["content"]
        n_first = len(talk.turns)
        again = {"role": "user", "content": "Show me the population for the city of Bergen."}
        words = [QUESTION[0], talk.turns[-1], again]
        shown = model.render([*talk.turns, again], tools=[get_population], multi_step=False)
        assert shown == model.render(words, tools=[get_population])
        list(talk.ask(again["content"]))  # what it says is its own: no conversation with tools was part of its training
        assert talk.last is not None
        assert talk.last.text
        assert talk.turns[n_first] == again
        assert talk.turns[-1] == {"role": "assistant", "content": talk.last.text}
