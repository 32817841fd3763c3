"""Events of a reply, one generation or two, with generations that were written before."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.replies import SIZES, check_offsets
from chat.replies import pieces as split
from commandr_gguf import ArgumentError, CommandRError, Finish, PlainAnswer, Reply, ReplyStream, Text, ToolCall
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


# ---- replies that the model did not end


def test_a_call_that_was_cut_stands_in_the_raw_text_only() -> None:
    for text in (A_TOOL, NO_TOOL):
        for end in range(len(text) - 8):
            reply = stream_of(Pieces(*words(text[:end]), reason="length"), form="tools")[0].finish()
            assert (reply.text, reply.raw_text, reply.finish_reason) == ("", text[:end], "length")
    assert stream_of(Pieces(A_TOOL[:-5]), form="tools")[0].finish().tool_calls == [ToolCall("add", {"a": 1})]


def test_a_citation_that_is_open_at_the_end_comes_at_the_end() -> None:
    stream, _ = stream_of(Pieces(*words(GROUNDED.partition("</co")[0])), form="grounded")
    assert [citation.text for citation in stream.finish().citations] == ["1987"]


def test_a_cancelled_reply_shows_the_plain_answer_to_its_end() -> None:
    stream, _ = stream_of(Pieces(*words(GROUNDED)), form="grounded")
    events = [next(stream)]
    while not isinstance(events[-1], Text):
        events.append(next(stream))
    stream.cancel()
    events += stream
    check_offsets(events)
    reply = stream.reply
    assert (reply.text, reply.answer, reply.finish_reason) == ("In 1987.", "In 1987.", "cancelled")
    assert text_of(events) == reply.text
    assert len(reply.raw_text) < len(GROUNDED)


def test_a_reply_whose_beginning_the_prompt_holds() -> None:
    mark = "Relevant Documents:"
    begun = dataclasses.replace(stage(Pieces(*words(GROUNDED.removeprefix(mark))), "grounded"), beginning=mark)
    reply = ReplyStream(begun).finish()
    assert (reply.text, reply.raw_text, reply.documents_relevant) == ("In 1987.", GROUNDED, [0])


# ---- stop strings


FRAGMENTS = [
    *("Answer: ", "\nGrounded answer: ", "Relevant Documents: 0\n", "\nCited Documents: 0\n", "<co: 0>", "</co: 0>"),
    *(
        "<co: 1>",
        "</co>",
        "ab",
        "ba",
        "a",
        "b",
        " ",
        "\n",
        "c",
        "<",
        "Plan: ",
        "<|START_TEXT|>",
        "<co>",
        "</co: 0:[0]>",
    ),
    *(A_TOOL, NO_TOOL, 'Action: [{"tool_name": "a'),
]
REPLIES = st.lists(st.sampled_from(FRAGMENTS), max_size=15).map("".join)
STOPS = st.lists(st.text(st.sampled_from("ab \n"), min_size=1, max_size=3), min_size=1, max_size=3)
FORMATS: list[ReplyFormat] = ["chat", "grounded", "tools", "multi_step", "search", "cmd4"]


def read(parts: Sequence[str], form: ReplyFormat, stop: str | Sequence[str] = ()) -> Reply:
    """The reply in these pieces."""
    stream = ReplyStream(stage(Pieces(*parts), form), stop=stop)
    events = list(stream)
    check_offsets(events)
    assert text_of(events) == stream.reply.text
    return stream.reply


@given(REPLIES, STOPS, st.sampled_from(FORMATS), SIZES)
def test_visible_text_ends_at_a_stop_string_however_the_reply_is_cut(
    text: str, stops: list[str], form: ReplyFormat, sizes: list[int]
) -> None:
    free = read([text], form)
    reply, other = read([text], form, stops), read(list(split(text, sizes)), form, stops)
    ends = [(free.text.index(stop) + len(stop), free.text.index(stop)) for stop in stops if stop in free.text]
    assert reply.text == (free.text[: min(ends)[1]] if ends else free.text)
    assert dataclasses.replace(reply, raw_text="", usage=other.usage, tokens=[]) == dataclasses.replace(
        other, raw_text="", tokens=[]
    )
    assert reply.finish_reason == "stop"
    assert all(citation.start < citation.end <= len(reply.text) for citation in reply.citations)
    if not ends:
        assert reply.citations == free.citations
        assert reply.tool_calls == free.tool_calls


@pytest.mark.parametrize(
    ("stop", "text", "cited"),
    [
        ("\n", "In 1987.", ["1987"]),
        ("Answer", "In 1987.", ["1987"]),
        ("answer:", "In 1987.", ["1987"]),
        ("0", "In 1987.", ["1987"]),
        ("<co", "In 1987.", ["1987"]),
        (["87", "x"], "In 19", ["19"]),
        ("1987", "In ", []),
        (".", "In 1987", ["1987"]),
        ("In", "", []),
    ],
)
def test_stop_strings_are_looked_for_in_what_a_reader_sees(stop: str, text: str, cited: list[str]) -> None:
    for size in (1, 3, 200):
        reply = read(list(split(GROUNDED, [size])), "grounded", stop)
        assert (reply.text, [citation.text for citation in reply.citations]) == (text, cited)
        assert (reply.answer, reply.documents_cited, reply.finish_reason) == ("In 1987.", [0], "stop")


def test_stop_strings_do_not_end_a_call() -> None:
    reply = read(words(A_TOOL), "tools", ["Action", "{", "\n", "add", "1"])
    assert (reply.tool_calls, reply.text, reply.raw_text) == ([ToolCall("add", {"a": 1})], "", A_TOOL)


def test_a_stop_string_ends_the_generation_and_holds_its_beginning_back() -> None:
    pieces = Pieces("One s", "t", "or ST", "O", "P two", " three")
    stream = ReplyStream(stage(pieces, "chat"), stop=["STOP", "st!"])
    assert [event.text for event in stream if isinstance(event, Text)] == ["One ", "stor "]
    reply = stream.reply
    assert (reply.text, reply.raw_text, reply.finish_reason) == ("One stor ", "One stor STOP two", "stop")
    assert (pieces.n_computed, pieces.n_closed >= 1) == (5, True)
    assert stream.generations[0].finish_reason == "stop"


def test_a_reply_that_a_stop_string_ended_is_not_asked_for_again() -> None:
    asked: list[int] = []
    first = stage(Pieces("Hm", "m."), "tools")
    reply = ReplyStream(first, (), asked.append, stop="H").finish()  # type: ignore[arg-type]
    assert (reply.text, reply.finish_reason, asked) == ("", "stop", [])


def test_a_stop_string_in_the_answer_without_tools() -> None:
    stream = ReplyStream(stage(Pieces(NO_TOOL), "tools"), (), lambda _: stage(Pieces("I a", "m."), "chat"), stop="am")
    assert (stream.finish().text, stream.reply.finish_reason) == ("I ", "stop")


def test_a_held_beginning_comes_at_the_end() -> None:
    reply = ReplyStream(stage(Pieces("ab", "c", reason="length"), "chat"), stop="bcd").finish()
    assert (reply.text, reply.finish_reason) == ("abc", "length")


def test_the_plain_answer_is_hidden_until_it_is_shown() -> None:
    reply = read([GROUNDED.partition("\nGrounded")[0]], "grounded", "98")
    assert (reply.text, reply.answer, reply.finish_reason) == ("In 1", "In 1987.", "stop")
    events = list(ReplyStream(stage(Pieces(*words(GROUNDED)), "grounded"), stop="98"))
    assert "".join(event.text for event in events if isinstance(event, PlainAnswer)) == "In 1987."


@pytest.mark.parametrize("stop", [[""], 3, ["a", 1]])
def test_what_is_no_stop_string_is_refused(stop: object) -> None:
    with pytest.raises(ArgumentError, match="stop must be strings"):
        ReplyStream(stage(Pieces("a"), "chat"), stop=stop)  # type: ignore[arg-type]


# ---- close and failures


def test_close_from_another_thread_lets_the_computing_one_end_the_reply() -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait(_done: int, _total: int) -> None:
        started.set()
        assert go_on.wait(60)

    pieces = Pieces("a", "b", "c", progress=wait)
    stream, _ = stream_of(pieces)
    replies: list[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(stream.finish()))
    thread.start()
    assert started.wait(60)
    stream.close()
    stream.close()
    go_on.set()
    thread.join(60)
    assert [(reply.finish_reason, reply.text) for reply in replies] == [("cancelled", "a")]
    assert (pieces.n_computed, list(stream)) == (1, [])


def test_close_from_within_the_computation() -> None:
    pieces = Pieces("a", "b", progress=lambda _done, _total: stream.close())
    stream, _ = stream_of(pieces)
    assert (stream.finish().finish_reason, stream.reply.text) == ("cancelled", "a")


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
