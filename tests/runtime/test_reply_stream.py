"""Events of a reply, one generation or two, with generations that were written before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from commandr_gguf import CommandRError, Finish, Reply, ReplyStream, Text, ToolCall
from commandr_gguf.chat.filter import ReplyFormat
from commandr_gguf.chat.visible import Source
from scripted import PROMPT_TOKENS, Pieces, stage, words

NO_TOOL = 'Action: ```json\n[\n    {\n        "tool_name": "directly_answer",\n        "parameters": {}\n    }\n]\n```'
A_TOOL = 'Action: ```json\n[{"tool_name": "add", "parameters": {"a": 1}}]\n```'
GROUNDED = "Relevant Documents: 0\nCited Documents: 0\nAnswer: In 1987.\nGrounded answer: In <co: 0>1987</co: 0>."


def stream_of(first: Pieces, second: Pieces | None = None, form: ReplyFormat = "chat") -> tuple[ReplyStream, list[int]]:
    """The stream, and with what it asked for the second generation."""
    asked: list[int] = []

    def again(n_written: int) -> object:
        assert second is not None
        asked.append(n_written)
        return stage(second, "chat")

    documents = [Source("a", {"text": "Opened in 1987."})]
    return ReplyStream(stage(first, form), documents, None if second is None else again), asked  # type: ignore[arg-type]


def text_of(events: Sequence[object]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


@pytest.mark.parametrize(("form", "text"), [("chat", "Hello there."), ("tools", A_TOOL), ("grounded", GROUNDED)])
def test_events_end_with_the_whole_reply(form: ReplyFormat, text: str) -> None:
    stream, _ = stream_of(Pieces(*words(text)), form=form)
    *parts, last = stream
    assert isinstance(last, Finish)
    assert not any(isinstance(part, Finish) for part in parts)
    assert last.reply == stream.reply == stream_of(Pieces(*words(text)), form=form)[0].finish()
    assert last.reply.raw_text == text
    assert last.reply.text == text_of(parts)
    assert last.reply.finish_reason == "stop"
    assert [part for part in parts if isinstance(part, ToolCall)] == last.reply.tool_calls


def test_citations_come_with_their_sources() -> None:
    stream, _ = stream_of(Pieces(*words(GROUNDED)), form="grounded")
    (citation,) = stream.finish().citations
    assert [source.id for source in citation.sources] == ["a"]


def test_nothing_is_computed_before_the_first_event_is_asked_for() -> None:
    pieces = Pieces("a", "b", "c")
    stream, _ = stream_of(pieces)
    assert stream.reply == Reply(usage=pieces.result.usage, timings=pieces.result.timings)
    assert pieces.n_computed == 0
    assert next(stream) == Text("a")
    assert pieces.n_computed == 1


def test_the_reply_grows_and_has_no_finish_reason_before_the_end() -> None:
    stream, _ = stream_of(Pieces("a", "b"))
    seen = [(event, stream.reply.text, stream.reply.finish_reason) for event in stream]
    assert seen[:2] == [(Text("a"), "a", None), (Text("b"), "ab", None)]
    assert seen[2][1:] == ("ab", "stop")


# ---- a model that wants no tool


@pytest.mark.parametrize("first", [NO_TOOL, NO_TOOL.replace("_a", "-a"), "Action: ```json\n[]\n```", "", " \n"])
def test_a_model_that_wants_no_tool_is_asked_again_without_tools(first: str) -> None:
    one, two = Pieces(*words(first)), Pieces("I am", " here.")
    stream, asked = stream_of(one, two, "tools")
    reply = stream.finish()
    assert asked == [len(words(first))]
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ("I am here.", [], "stop")
    assert reply.raw_text == first + "I am here."
    assert reply.usage.prompt_tokens == 2 * PROMPT_TOKENS
    assert reply.usage.completion_tokens == len(reply.tokens) == asked[0] + 2
    assert reply.timings.prefill_tokens == 8
    assert [generation.text for generation in stream.generations] == [first, "I am here."]


@pytest.mark.parametrize("first", [A_TOOL, "Hello!", 'Action: ```json\n[{"tool_name": '])
def test_a_model_that_calls_a_tool_or_writes_text_is_not_asked_again(first: str) -> None:
    stream, asked = stream_of(Pieces(*words(first)), Pieces("no"), "tools")
    reply = stream.finish()
    assert asked == []
    assert reply.raw_text == first
    assert reply.text or reply.tool_calls


def test_a_reply_that_was_cut_is_not_asked_for_again() -> None:
    stream, asked = stream_of(Pieces(NO_TOOL, reason="length"), Pieces("no"), "tools")
    assert (stream.finish().finish_reason, asked) == ("length", [])


def test_the_second_generation_decides_how_the_reply_ended() -> None:
    stream, _ = stream_of(Pieces(NO_TOOL), Pieces("a", reason="length"), "tools")
    assert stream.finish().finish_reason == "length"


# ---- cancel


def test_cancel_before_the_first_event() -> None:
    pieces = Pieces("a", "b")
    stream, _ = stream_of(pieces)
    stream.cancel()
    (finish,) = stream
    assert isinstance(finish, Finish)
    assert (finish.reply.finish_reason, finish.reply.text, pieces.n_computed) == ("cancelled", "", 0)


def test_cancel_within_a_generation() -> None:
    stream, _ = stream_of(Pieces("a", "b", "c"))
    next(stream)
    stream.cancel()
    reply = stream.finish()
    assert (reply.finish_reason, reply.text) == ("cancelled", "a")


def test_cancel_in_the_first_generation_prevents_the_second() -> None:
    first = Pieces("Plan: none", "\n", *words(NO_TOOL))
    stream, asked = stream_of(first, Pieces("no"), "multi_step")
    next(stream)
    stream.cancel()
    assert stream.finish().finish_reason == "cancelled"
    assert asked == []


def test_cancel_between_the_generations() -> None:
    second = Pieces("a", "b")

    def again(_n_written: int) -> object:
        stream.cancel()
        return stage(second, "chat")

    stream = ReplyStream(stage(Pieces(NO_TOOL), "tools"), (), again)  # type: ignore[arg-type]
    reply = stream.finish()
    assert (reply.finish_reason, reply.text, second.n_computed) == ("cancelled", "", 0)


def test_cancel_within_the_second_generation() -> None:
    stream, _ = stream_of(Pieces(NO_TOOL), Pieces("a", "b", "c"), "tools")
    assert next(stream) == Text("a")
    stream.cancel()
    reply = stream.finish()
    assert (reply.finish_reason, reply.text) == ("cancelled", "a")


# ---- close and failures


def test_close_in_the_middle() -> None:
    pieces = Pieces("a", "b")
    with stream_of(pieces)[0] as stream:
        next(stream)
    assert pieces.n_closed >= 1
    assert (stream.reply.finish_reason, stream.reply.text) == ("cancelled", "a")
    assert list(stream) == []


def test_close_before_the_first_event() -> None:
    pieces = Pieces("a")
    stream, _ = stream_of(pieces)
    stream.close()
    stream.close()
    assert list(stream) == []
    assert (stream.reply.finish_reason, pieces.n_computed, pieces.n_closed >= 1) == ("cancelled", 0, True)


def test_close_behind_the_last_token_but_before_the_last_event() -> None:
    stream, _ = stream_of(Pieces("a"))
    assert next(stream) == Text("a")
    stream.close()
    assert stream.reply.finish_reason == "cancelled"


def test_close_after_the_end_changes_nothing() -> None:
    stream, _ = stream_of(Pieces("a"))
    reply = stream.finish()
    stream.close()
    assert stream.reply == reply
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize("error", [CommandRError("broken"), KeyboardInterrupt()])
def test_an_exception_passes_through_and_ends_the_reply(error: BaseException) -> None:
    pieces = Pieces("a", error=error)
    stream, _ = stream_of(pieces)
    with pytest.raises(type(error)):
        list(stream)
    assert pieces.n_closed >= 1
    assert (stream.reply.finish_reason, stream.reply.text) == ("cancelled", "a")


def test_a_second_generation_that_cannot_be_asked_for() -> None:
    def again(_n_written: int) -> object:
        raise CommandRError("refused")

    first = Pieces(NO_TOOL)
    stream = ReplyStream(stage(first, "tools"), (), again)  # type: ignore[arg-type]
    with pytest.raises(CommandRError, match="refused"):
        stream.finish()
    assert (stream.reply.finish_reason, first.n_closed >= 1) == ("cancelled", True)
