"""Several turns, with a stand-in for the model."""

from __future__ import annotations

import json
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import pytest

from commandr_gguf import (
    CommandRError,
    Conversation,
    FileError,
    Finish,
    FormatError,
    PlainAnswer,
    Reply,
    Text,
    ToolCall,
    ToolResult,
)
from commandr_gguf.chat.request import make_request
from scripted import ScriptedModel


def talk(model: ScriptedModel, system: str | None = None, **options: Any) -> Conversation:
    return Conversation(model.model, system, **options)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def say(conversation: Conversation, text: str) -> list[Any]:
    return list(conversation.ask(text))


def until(events: Generator[Any, None, None], kind: type) -> None:
    """Read up to the first event of a kind, and leave."""
    next(event for event in events if isinstance(event, kind))
    events.close()


def test_turns_alternate_and_options_are_passed_on() -> None:
    model = ScriptedModel("Hello", "Hello")
    conversation = talk(model, "Be brief.", max_tokens=9)
    assert say(conversation, "Hi")[:2] == [Text("Hel"), Text("lo")]
    say(conversation, "And?")
    system = {"role": "system", "content": "Be brief."}
    options = {"tools": None, "documents": None, "max_tokens": 9}
    assert model.asked == [
        ([system, user("Hi")], options),
        ([system, user("Hi"), assistant("Hello"), user("And?")], options),
    ]
    assert conversation.messages == [system, user("Hi"), assistant("Hello"), user("And?"), assistant("Hello")]
    assert conversation.last is not None
    assert conversation.last.finish_reason == "stop"
    conversation.reset()
    assert conversation.messages == [system]
    assert conversation.last is None


def test_the_events_of_a_reply_end_with_it() -> None:
    conversation = talk(ScriptedModel("Hello"))
    assert say(conversation, "Hi")[-1] == Finish(cast("Reply", conversation.last))


def test_a_reply_that_is_cut_short_is_kept_as_far_as_it_came() -> None:
    conversation = talk(ScriptedModel("abcdef"))
    until(conversation.ask("Hi"), Text)
    assert conversation.turns == [user("Hi"), assistant("abc")]
    conversation = talk(ScriptedModel({"text": "abc", "error": KeyboardInterrupt()}))
    with pytest.raises(KeyboardInterrupt):
        say(conversation, "Hi")
    assert conversation.turns == [user("Hi"), assistant("abc")]


def test_a_message_without_a_reply_is_taken_back() -> None:
    conversation = talk(ScriptedModel("first", {"error": CommandRError("too long")}))
    say(conversation, "Hi")
    with pytest.raises(CommandRError):
        say(conversation, "And?")
    assert conversation.turns == [user("Hi"), assistant("first")]


def test_an_empty_reply_counts() -> None:
    conversation = talk(ScriptedModel(""))
    say(conversation, "Hi")
    assert conversation.turns == [user("Hi"), assistant("")]


@pytest.mark.parametrize("reason", ["length", "cancelled"])
def test_a_reply_that_was_cut_before_its_first_text_is_taken_back(reason: str) -> None:
    cut = {"text": "", "reason": reason}
    conversation = talk(ScriptedModel("first", cut, "second"))
    say(conversation, "Hi")
    say(conversation, "And?")
    assert conversation.turns == [user("Hi"), assistant("first")]
    say(conversation, "And?")
    assert conversation.turns[2:] == [user("And?"), assistant("second")]


# ---- documents and tools

PLAIN = "Relevant Documents: 0\nCited Documents: 0\nAnswer: In 1987."
GROUNDED = f"{PLAIN}\nGrounded answer: In <co: 0>1987</co: 0>."
CALL = 'Plan: I will look.\nAction: ```json\n[{"tool_name": "look", "parameters": {"name": "x"}}]\n```'


def look(name: str) -> str:
    """Looks something up.

    Args:
        name: What to look up.
    """
    if name != "x":
        raise KeyError(name)
    return "found"


def test_documents_are_given_with_every_question() -> None:
    model = ScriptedModel(GROUNDED, GROUNDED)
    conversation = talk(model, documents=["Opened in 1987."])
    say(conversation, "When?")
    say(conversation, "Are you sure?")
    assert conversation.turns == [user("When?"), assistant("In 1987."), user("Are you sure?"), assistant("In 1987.")]
    assert [options["documents"] for _, options in model.asked] == [["Opened in 1987."]] * 2
    assert conversation.last is not None
    assert [citation.text for citation in conversation.last.citations] == ["1987"]


def test_a_grounded_reply_that_is_left_before_its_text_is_taken_back() -> None:
    conversation = talk(ScriptedModel(GROUNDED), documents=["Opened in 1987."])
    until(conversation.ask("When?"), PlainAnswer)
    assert conversation.turns == []


def test_calls_of_tools_and_their_results_stay_in_the_conversation() -> None:
    model = ScriptedModel(CALL, GROUNDED, "Relevant Documents: None\nCited Documents: None\nGrounded answer: Bye.")
    conversation = talk(model, "Be brief.", tools=[look])
    events = say(conversation, "When?")
    assert [event.value for event in events if isinstance(event, ToolResult)] == ["found"]
    assert events[-1] == Finish(cast("Reply", conversation.last))
    assert sum(isinstance(event, Finish) for event in events) == 1
    say(conversation, "Thanks.")
    roles = ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]
    assert [message["role"] for message in conversation.messages] == roles
    assert conversation.turns[-1] == assistant("Bye.")
    assert [len(messages) for messages, _ in model.asked] == [2, 4, 6]


def test_a_question_with_tools_is_taken_back_on_failure() -> None:
    conversation = talk(ScriptedModel("Relevant Documents: None\nGrounded answer: Hi.", CALL), tools=[look])
    say(conversation, "Hi")
    with pytest.raises(IndexError):  # the script ends
        say(conversation, "When?")
    assert conversation.turns == [user("Hi"), assistant("Hi.")]
    conversation = talk(ScriptedModel({"error": CommandRError("too long")}), tools=[look])
    with pytest.raises(CommandRError):
        say(conversation, "When?")
    assert conversation.turns == []


def test_an_answer_with_tools_that_is_cut_short_is_kept_as_far_as_it_came() -> None:
    conversation = talk(ScriptedModel(CALL, GROUNDED), tools=[look])
    until(conversation.ask("When?"), Text)
    assert [message["role"] for message in conversation.turns] == ["user", "assistant", "tool", "assistant"]
    assert "In 1987.".startswith(conversation.turns[-1]["content"])
    assert conversation.turns[-1]["content"]


def test_leaving_before_the_answer_with_tools_takes_the_question_back() -> None:
    for kind in (ToolCall, ToolResult):
        conversation = talk(ScriptedModel(CALL, GROUNDED), tools=[look])
        until(conversation.ask("When?"), kind)
        assert conversation.turns == []


def test_what_tools_gave_stays_when_the_steps_are_used_up() -> None:
    model = ScriptedModel(CALL, CALL, GROUNDED)
    conversation = talk(model, tools=[look], max_steps=1)
    say(conversation, "When?")
    assert [message["role"] for message in conversation.turns] == ["user", "assistant", "tool"]
    say(conversation, "Well?")
    assert conversation.turns[-1] == assistant("In 1987.")


@pytest.mark.parametrize("text", ["", "Plan: I will"])
def test_a_reply_with_tools_that_was_cut_before_text_and_calls_leaves_no_turn(text: str) -> None:
    cut = {"text": text, "reason": "length"}
    conversation = talk(ScriptedModel(cut), tools=[look])
    say(conversation, "When?")
    assert conversation.turns == []
    conversation = talk(ScriptedModel(CALL, cut, GROUNDED), tools=[look])
    say(conversation, "When?")
    assert [message["role"] for message in conversation.turns] == ["user", "assistant", "tool"]
    say(conversation, "Well?")
    assert conversation.turns[-2:] == [user("Well?"), assistant("In 1987.")]


def test_a_question_whose_answer_was_cut_goes_into_the_next_one_of_a_template_that_alternates() -> None:
    conversation = talk(ScriptedModel(CALL, {"text": "", "reason": "length"}), tools=[look], multi_step=False)
    say(conversation, "When?")
    assert [message["role"] for message in conversation.turns] == ["user", "assistant", "tool"]
    request = make_request([*conversation.messages, user("Well?")])
    assert request.template == "multi_step"
    request = make_request([*conversation.messages, user("Well?")], documents=["In 1987."])
    assert request.data["messages"] == [user("When?\n\nWell?")]


def test_a_conversation_with_tools_is_saved_and_loaded(tmp_path: Path) -> None:
    conversation = talk(ScriptedModel(CALL, GROUNDED), tools=[look])
    say(conversation, "When?")
    conversation.save(tmp_path / "chat.json")
    other = talk(ScriptedModel())
    other.load(tmp_path / "chat.json")
    assert other.turns == conversation.turns


# ---- files


def test_saving_and_loading(tmp_path: Path) -> None:
    conversation = talk(ScriptedModel("grüß dich"), "Sei kurz.")
    say(conversation, "Hallo")
    conversation.save(tmp_path / "chat.json")
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]
    assert "grüß" in (tmp_path / "chat.json").read_text(encoding="utf-8")
    other = talk(ScriptedModel())
    other.load(tmp_path / "chat.json")
    assert other.messages == conversation.messages
    assert other.system == "Sei kurz."


@pytest.mark.parametrize("text", ["", "{", "3", "[]", "[3]", '{"role": "user"}', '[{"role": "x", "content": ""}]'])
def test_loading_what_is_no_conversation_changes_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    conversation = talk(ScriptedModel("a"), "Be brief.")
    say(conversation, "Hi")
    before = json.dumps(conversation.messages)
    with pytest.raises(FormatError, match=r"bad\.json: this is no saved conversation"):
        conversation.load(path)
    assert json.dumps(conversation.messages) == before


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    conversation = talk(ScriptedModel())
    with pytest.raises(FileError, match=r"absent\.json: the conversation cannot be read"):
        conversation.load(tmp_path / "absent.json")
    with pytest.raises(FileError, match="cannot be saved"):
        conversation.save(tmp_path / "no folder" / "chat.json")
