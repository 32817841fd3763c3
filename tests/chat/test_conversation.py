"""Several turns, with a stand-in for the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from commandr_gguf import CommandR, CommandRError, Conversation, FileError, FormatError, Generation, Piece


class Stream:
    def __init__(self, words: list[str], error: BaseException | None) -> None:
        self.result = Generation()
        self._words = words
        self._error = error

    def __iter__(self) -> Iterator[Piece]:
        for word in self._words:
            self.result.text += word
            yield Piece(word, [], [], None)
        if self._error:
            raise self._error
        self.result.finish_reason = "stop"

    def close(self) -> None:
        self.result.finish_reason = self.result.finish_reason or "cancelled"


class StandIn:
    def __init__(self, words: list[str], error: BaseException | None = None) -> None:
        self.words = words
        self.error = error
        self.asked: list[Any] = []

    def chat(self, messages: Any, **options: Any) -> Stream:
        self.asked.append((messages, options))
        return Stream(self.words, self.error)


def talk(model: StandIn, system: str | None = None, **options: Any) -> Conversation:
    return Conversation(cast("CommandR", model), system, **options)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_turns_alternate_and_options_are_passed_on() -> None:
    model = StandIn(["He", "llo"])
    conversation = talk(model, "Be brief.", max_tokens=9)
    assert [piece.text for piece in conversation.ask("Hi")] == ["He", "llo"]
    list(conversation.ask("And?"))
    system = {"role": "system", "content": "Be brief."}
    assert model.asked == [
        ([system, user("Hi")], {"stream": True, "max_tokens": 9}),
        ([system, user("Hi"), assistant("Hello"), user("And?")], {"stream": True, "max_tokens": 9}),
    ]
    assert conversation.messages == [system, user("Hi"), assistant("Hello"), user("And?"), assistant("Hello")]
    assert conversation.last is not None
    assert conversation.last.finish_reason == "stop"
    conversation.reset()
    assert conversation.messages == [system]
    assert conversation.last is None


def test_a_reply_that_is_cut_short_is_kept_as_far_as_it_came() -> None:
    conversation = talk(StandIn(["a", "b", "c"]))
    pieces = conversation.ask("Hi")
    next(pieces)
    next(pieces)
    pieces.close()
    assert conversation.turns == [user("Hi"), assistant("ab")]
    conversation = talk(StandIn(["a"], KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        list(conversation.ask("Hi"))
    assert conversation.turns == [user("Hi"), assistant("a")]


def test_a_message_without_a_reply_is_taken_back() -> None:
    conversation = talk(StandIn([], CommandRError("too long")))
    with pytest.raises(CommandRError):
        list(conversation.ask("Hi"))
    assert conversation.turns == []


def test_an_empty_reply_counts() -> None:
    conversation = talk(StandIn([]))
    list(conversation.ask("Hi"))
    assert conversation.turns == [user("Hi"), assistant("")]


def test_saving_and_loading(tmp_path: Path) -> None:
    conversation = talk(StandIn(["grüß dich"]), "Sei kurz.")
    list(conversation.ask("Hallo"))
    conversation.save(tmp_path / "chat.json")
    assert [path.name for path in tmp_path.iterdir()] == ["chat.json"]
    assert "grüß" in (tmp_path / "chat.json").read_text(encoding="utf-8")
    other = talk(StandIn([]))
    other.load(tmp_path / "chat.json")
    assert other.messages == conversation.messages
    assert other.system == "Sei kurz."


@pytest.mark.parametrize("text", ["", "{", "3", "[]", "[3]", '{"role": "user"}', '[{"role": "x", "content": ""}]'])
def test_loading_what_is_no_conversation_changes_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    conversation = talk(StandIn(["a"]), "Be brief.")
    list(conversation.ask("Hi"))
    before = json.dumps(conversation.messages)
    with pytest.raises(FormatError, match=r"bad\.json: this is no saved conversation"):
        conversation.load(path)
    assert json.dumps(conversation.messages) == before


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    conversation = talk(StandIn([]))
    with pytest.raises(FileError, match=r"absent\.json: the conversation cannot be read"):
        conversation.load(tmp_path / "absent.json")
    with pytest.raises(FileError, match="cannot be saved"):
        conversation.save(tmp_path / "no folder" / "chat.json")
