"""Replies with marks are read while they are written: as the complete reply is, for any split, as early as can be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.replies import SIZES, calls, citations, merged, pieces, planned, shown, stream, whole
from commandr_gguf import ArgumentError, Citation, FormatError, ToolCall, parse_actions, parse_grounded_answer
from commandr_gguf.chat.events import CitedDocuments, PlainAnswer, Plan, RelevantDocuments, SearchQuery, Text
from commandr_gguf.chat.filter import ReplyFormat, reply_parser
from commandr_gguf.chat.reply_builder import ReplyBuilder

ACCURATE = (
    "Relevant Documents: 0,1\n"
    "Cited Documents: 0\n"
    "Answer: The bridge was opened in 1987.\n"
    "Grounded answer: The bridge was <co: 0>opened</co: 0> in <co: 0,1>1987</co: 0,1>."
)
LIST = '[\n    {\n        "tool_name": "find",\n        "parameters": {"city": "Łódź ]}", "n": [1, {}]}\n    }\n]'
CALL = ToolCall("find", {"city": "Łódź ]}", "n": [1, {}]})
OTHER = '{"tool_name": "get_time", "parameters": {}}'
NOTHING = '{"tool_name": "directly_answer", "parameters": {}}'

TAGS = ["<co: 0>", "<co:1>", "<co: 0, 1>", "</co: 0>", "</co:1>", "</co: 0,1>", "</co>", "<co: 3", "</co", "<co>", "<"]
WORDS = [
    "a",
    "Ünï",
    "한국",
    "😀",
    "e\u0301",
    " ",
    "  ",
    "\n",
    "\u3000",
    "12",
    ">",
    "*",
    "**",
    "* one",
    ". ",
    "\r\n",
    "\t",
]
MARKS = [
    "Relevant Documents:",
    "Cited Documents: 0,1\n",
    "\nAnswer: ",
    "\nGrounded answer: ",
    "**Answer:** ",
    "Answer:",
]
MARKS += ["\n*Grounded answer*: ", "\nRelevant Documents: None\n", "\nRelev", "grounded ANSWER :", "\nAnswers: ", "***"]
ACTIONS = [
    "Plan: ",
    "\nReflection: ",
    "\nAction: ",
    "Action:",
    "**Action:**",
    "```json\n",
    "```",
    "`",
    "[",
    "]",
    "{",
    "}",
]
ACTIONS += [
    LIST,
    f"[{OTHER}, ",
    f"{OTHER}]",
    f"[{NOTHING}]",
    '"',
    "\\",
    ",",
    '{"tool_name": "x"',
    "[]",
    '[{"a": 1}]',
    "[ {",
]
FORMATS: tuple[ReplyFormat, ...] = ("chat", "grounded", "tools", "multi_step", "search")


def texts(*fragments: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from([item for items in fragments for item in items]), max_size=25).map("".join)


ANY = st.one_of(
    texts(TAGS, WORDS), texts(MARKS, TAGS, WORDS), texts(ACTIONS, WORDS), texts(ACTIONS, MARKS, TAGS, WORDS)
)


@given(st.sampled_from(FORMATS), ANY, SIZES, st.booleans())
def test_any_split_gives_the_same_events(reply_format: ReplyFormat, reply: str, sizes: list[int], cut: bool) -> None:
    assert stream(reply_format, pieces(reply, sizes), cut=cut) == whole(reply_format, reply, cut=cut)


@given(texts(MARKS, TAGS, WORDS) | st.text(), SIZES)
def test_a_grounded_stream_is_the_complete_reply(reply: str, sizes: list[int]) -> None:
    builder = ReplyBuilder()
    for event in stream("grounded", pieces(reply, sizes)):
        builder.add(event)
    streamed, complete = builder.build(), parse_grounded_answer(reply)
    assert (streamed.text, streamed.citations, streamed.answer) == (complete.text, complete.citations, complete.answer)
    assert (streamed.documents_relevant, streamed.documents_cited) == (complete.relevant, complete.cited)
    assert streamed.text == streamed.text.strip()


@given(texts(ACTIONS, WORDS), SIZES)
def test_a_stream_of_actions_is_the_complete_reply(reply: str, sizes: list[int]) -> None:
    events = stream("tools", pieces(reply, sizes))
    try:
        complete = parse_actions(reply)
    except FormatError:
        return
    assert calls(events) == complete


@given(texts(ACTIONS, WORDS), SIZES)
def test_no_call_comes_that_stands_for_no_tool(reply: str, sizes: list[int]) -> None:
    found = calls(stream("multi_step", pieces(f"Action: [{NOTHING}, {reply}", sizes)))
    assert all(call.name not in {"directly_answer", "directly-answer"} for call in found)


@given(st.text(st.sampled_from("ab é한 .")), st.sampled_from(["", "Relevant Documents: 0\nGrounded answer: "]))
def test_text_comes_at_once_but_for_white_space_at_its_end(text: str, before: str) -> None:
    parser = reply_parser("grounded")
    visible = shown(parser.write(before))
    for end, character in enumerate(text, 1):
        visible += shown(parser.write(character))
        so_far = text[:end].strip()
        # The first words may be a mark's.
        assert visible == so_far or (not before and "answer".startswith(so_far))
    assert visible + shown(parser.flush()) == text.strip()


@pytest.mark.parametrize(
    ("reply_format", "written", "visible"),
    [
        ("grounded", ACCURATE.partition("bridge was <")[0] + "bridge <co: 0>was", "The bridge was"),
        ("grounded", "The bridge was", "The bridge was"),
        ("grounded", "It says:\nAnswers", "It says:\nAnswers"),
        ("grounded", "It says:\nGround", "It says:"),
        ("grounded", "Grounded answer: a <co", "a"),
        ("grounded", "Grounded answer: a <co>", "a <co>"),
        ("grounded", "Grounded answer: one\nGrounded", "one\nGrounded"),
        ("grounded", "Relevant Documents: 0\nCited Documents: None\nIt is", "It is"),
        ("tools", "I can answer that [1", "I can answer that [1"),
        ("tools", "I can answer that [", "I can answer that"),
        ("tools", "Acting:", "Acting:"),
        ("tools", "Act", ""),
        ("multi_step", ACCURATE, "The bridge was opened in 1987."),
    ],
)
def test_only_what_may_still_become_something_else_is_held_back(
    reply_format: ReplyFormat, written: str, visible: str
) -> None:
    parser = reply_parser(reply_format)
    assert "".join(shown(parser.write(character)) for character in written) == visible


def test_a_citation_comes_with_its_closing_tag() -> None:
    parser = reply_parser("grounded")
    parser.write("Grounded answer: The <co: 0>bridge</co: 0")
    assert parser.write(">") == [Citation(4, 10, "bridge", (0,))]


def test_a_call_comes_with_its_closing_brace() -> None:
    parser = reply_parser("tools")
    end = LIST.rindex("}")
    assert parser.write(f"Action: ```json\n{LIST[:end]}") == []
    assert parser.write("}") == [CALL]
    assert parser.write(f",\n{OTHER[:-1]}") == []
    assert parser.write("}") == [ToolCall("get_time")]
    assert parser.write("\n]\n```") + parser.flush() == []


def test_a_plan_comes_at_once() -> None:
    parser = reply_parser("multi_step")
    assert parser.write("Plan: I will look") == [Plan("I will look")]
    assert parser.write(" it up.\nAction: ```json\n[") == [Plan(" it up.")]


def test_the_events_of_a_grounded_reply() -> None:
    assert whole("grounded", ACCURATE) == [
        RelevantDocuments((0, 1)),
        CitedDocuments((0,)),
        PlainAnswer("The bridge was opened in 1987."),
        Text("The bridge was opened"),
        Citation(15, 21, "opened", (0,)),
        Text(" in 1987"),
        Citation(25, 29, "1987", (0, 1)),
        Text("."),
    ]


def test_numbers_come_with_the_end_of_their_line() -> None:
    parser = reply_parser("grounded")
    assert parser.write("Relevant Documents: 0,1") == []
    assert parser.write("\n") == [RelevantDocuments((0, 1))]
    assert parser.write("Cited Documents: None") == []
    assert parser.flush() == [CitedDocuments(())]


@pytest.mark.parametrize(
    "cut", ["", "Grounded", "Grounded answer:", "Grounded answer: <co: 0", "Grounded answer: <co: 0> "]
)
def test_without_a_grounded_answer_the_plain_one_is_shown_at_the_end(cut: str) -> None:
    parser = reply_parser("grounded")
    plain = merged(parser.write(f"Answer: It was <co: 1>1987</co: 1>.\n{cut}"))
    assert plain == [PlainAnswer("It was 1987.")]
    assert merged(parser.flush()) == [Text("It was 1987"), Citation(7, 11, "1987", (1,)), Text(".")]


@pytest.mark.parametrize("end", range(len(ACCURATE)))
def test_a_reply_that_is_cut_anywhere_is_the_beginning_of_the_whole(end: int) -> None:
    events = whole("grounded", ACCURATE[:end].removesuffix("<"))  # which alone may be anything
    text = "The bridge was opened in 1987."
    lines = ACCURATE.partition("The")[0].split("\n")
    assert text.startswith(shown(events)) or any(line.startswith(shown(events)) for line in lines)
    for citation in citations(events):
        assert text[citation.start : citation.end] == citation.text


# ---- replies that the model did not end


@pytest.mark.parametrize(
    ("before", "text"),
    [("Action: ", ""), ("", ""), ("Plan: I look.\nAction:", ""), ("Here you are: ", "Here you are:")],
)
@pytest.mark.parametrize("actions", [f"[\n    {OTHER},\n    {LIST[6:]}", f"[\n    {NOTHING}\n]"])
def test_a_call_that_was_cut_is_no_text_and_no_call(before: str, text: str, actions: str) -> None:
    reply_format: ReplyFormat = "multi_step" if before.startswith("Plan") else "tools"
    reply = f"{before}```json\n{actions}\n```"
    complete = calls(whole(reply_format, reply))
    for end in range(len(before), len(reply)):
        events = whole(reply_format, reply[:end], cut=True)
        assert (shown(events), text) in {(text, text), ("Here you are", "Here you are:")}, reply[:end]
        given = calls(events)
        assert given == complete[: len(given)]
        assert len(given) == len(complete) or end <= reply.rindex("}")


@pytest.mark.parametrize("mark", ["Action:", "Relevant Documents: 0,1", "Cited Documents: 0", "**Answer:**"])
def test_a_mark_or_a_line_of_numbers_that_was_cut_gives_nothing(mark: str) -> None:
    for end in range(len(mark) + 1):
        assert whole("multi_step", mark[:end], cut=True) == []


def test_words_in_the_place_of_actions_are_shown_when_they_are_cut() -> None:
    assert shown(whole("tools", "Action: none, since I", cut=True)) == "Action: none, since I"
    assert shown(whole("tools", "I can do", cut=True)) == "I can do"


def test_a_grounded_answer_that_was_cut_is_completed_by_the_plain_one() -> None:
    answer = "The bridge was opened in 1987."
    plain, grounded = ACCURATE.index("The"), ACCURATE.index("Grounded answer:")
    places = {15: "opened", 25: "1987"}
    for end in range(len(ACCURATE)):
        events = whole("grounded", ACCURATE[:end], cut=True)
        assert shown(events) == (answer[: max(end - plain, 0)].rstrip() if end < grounded else answer), end
        for citation in citations(events):
            assert places[citation.start].startswith(citation.text)
    events = whole("grounded", ACCURATE.partition("</co: 0,1>")[0], cut=True)
    assert [citation.text for citation in citations(events)] == ["opened", "1987"]
    assert "".join(event.text for event in events if isinstance(event, PlainAnswer)) == answer


@pytest.mark.parametrize(
    ("grounded", "text"),
    [
        ("This bridge", "This bridge"),
        ("The bridge was opened in 1987.", "The bridge was opened in 1987."),
        ("The bridge was opened in 1987. And", "The bridge was opened in 1987. And"),
        ("The\nbridge", "The\nbridge"),
        ("The bridge <", "The bridge was opened in 1987."),
        ("<co: 0>The bridge </co: 0>", "The bridge was opened in 1987."),
    ],
)
def test_a_grounded_answer_with_other_words_is_not_completed(grounded: str, text: str) -> None:
    head = f"Let me see.\n{ACCURATE.partition('Grounded')[0]}Grounded answer: "
    assert shown(whole("grounded", head + grounded, cut=True)) == f"Let me see.\n{text}"
    ended = whole("grounded", head + "The bridge was")
    assert shown(ended) == "Let me see.\nThe bridge was"


@pytest.mark.parametrize(
    ("reply_format", "written", "again", "visible"),
    [
        ("grounded", "Grounded answer: a <co: ", "1,", "a <co: 1,1"),
        ("grounded", "", "*", "***"),
        ("grounded", "**Answer:", "*", ""),
        ("tools", "See [", "\n", "See ["),
        ("tools", "See ```json", " ", "See ```json"),
        ("tools", f"Action: [{OTHER}]", " ", ""),
    ],
)
def test_no_endless_run_is_held_back(reply_format: ReplyFormat, written: str, again: str, visible: str) -> None:
    parser = reply_parser(reply_format)
    events = parser.write(written)
    for _ in range(600):
        events += parser.write(again)
    assert shown(events).startswith(visible)
    assert len(parser._held) < 300  # type: ignore[attr-defined]


def test_the_events_of_a_step() -> None:
    reply = f"Plan: I look.\nReflection: And on.\nAction: ```json\n{LIST}\n```"
    assert whole("multi_step", reply) == [Plan("I look.\nAnd on."), CALL]


def test_the_last_step_is_a_grounded_answer_behind_a_reflection() -> None:
    events = whole("multi_step", f"Reflection: I know it now.\n{ACCURATE}")
    assert events == [Plan("I know it now."), *whole("grounded", ACCURATE)]


def test_a_grounded_answer_may_follow_the_wish_for_no_tool() -> None:
    assert whole("multi_step", f"Action: ```json\n[{NOTHING}]\n```\n{ACCURATE}") == whole("grounded", ACCURATE)


def test_the_lines_of_an_answer_are_no_plan_and_no_actions() -> None:
    answer = f"Here it is:\nPlan: go.\nReflection: none.\nAction: {LIST}"
    assert whole("multi_step", f"Relevant Documents: None\nGrounded answer: {answer}")[1:] == [Text(answer)]
    assert whole("multi_step", "Here it is:\nPlan: go.") == [Text("Here it is:\nPlan: go.")]


def test_only_the_first_list_counts() -> None:
    reply = f"Action: {LIST}\nReflection: I made that up.\nAction: [{OTHER}]"
    assert calls(whole("multi_step", reply)) == [CALL]
    assert f"[{OTHER}]" in planned(whole("multi_step", reply)) + shown(whole("multi_step", reply))


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("I can answer that myself.", "I can answer that myself."),
        ("Action: none", "Action: none"),
        ("Action: [see above]", "Action: [see above]"),
        ('Action: ```json\n[{"tool_name": "a", "para', 'Action: ```json\n[{"tool_name": "a", "para'),
        ('Action: ```json\n[{"name": "a"}]\n```', 'Action: ```json\n[{"name": "a"}]\n```'),
        ("Action: ```json\n[]\n```", ""),
        ("Action: []", ""),
        (f"Action: [{NOTHING[:-4]}", ""),
        (f"Action: ```json\n[{NOTHING}]\n```", ""),
        (f"Here you are: {LIST} Shall I go on?", "Here you are:  Shall I go on?"),
        (f"Action: {LIST[:-1]}, 3]", "3]"),
        (f"Action: {LIST[:-1]}, {OTHER[:20]}", OTHER[:20]),
        ("Run ```python\nx = [{}]\n``` and [1].", "Run ```python\nx = [{}]\n``` and [1]."),
    ],
)
def test_what_is_no_action_is_shown_as_it_was_written(reply: str, text: str) -> None:
    assert shown(whole("tools", reply)) == text


@pytest.mark.parametrize("name", ["directly_answer", "directly-answer"])
def test_the_wish_for_no_tool_gives_no_event(name: str) -> None:
    assert whole("tools", f'Action: ```json\n[{{"tool_name": "{name}", "parameters": {{}}}}]\n```') == []


@pytest.mark.parametrize(
    ("reply", "queries", "text"),
    [
        ("Search: first ||| second one", ["first", "second one"], ""),
        ("Search: a|||b\nSearch: c ||| ", ["a", "b", "c"], ""),
        ("**Search:** a || b", ["a || b"], ""),
        ("None", [], ""),
        (" None.\n", [], ""),
        ("Search: None", [], ""),
        ("None of it.", [], "None of it."),
        ("Let me see.\nSearch: 한국 😀", ["한국 😀"], "Let me see."),
        ("I need nothing.", [], "I need nothing."),
    ],
)
def test_search_queries(reply: str, queries: list[str], text: str) -> None:
    for sizes in ([1], [3], [100]):
        events = stream("search", pieces(reply, sizes))
        assert [event.text for event in events if isinstance(event, SearchQuery)] == queries
        assert shown(events) == text


def test_a_query_comes_with_its_separator() -> None:
    parser = reply_parser("search")
    assert parser.write("Search: first ||") == []
    assert parser.write("| second") == [SearchQuery(0, "first")]
    assert parser.flush() == [SearchQuery(1, "second")]


@given(st.lists(st.text(st.sampled_from("ab é?"), min_size=1).filter(str.strip), max_size=4), SIZES)
def test_the_queries_that_are_written_are_found(queries: list[str], sizes: list[int]) -> None:
    events = stream("search", pieces(f"Search: {' ||| '.join(queries)}", sizes))
    assert [event.text for event in events if isinstance(event, SearchQuery)] == [query.strip() for query in queries]


def test_a_chat_reply_is_its_text() -> None:
    assert whole("chat", f" {ACCURATE}\n") == [Text(f" {ACCURATE}\n")]
    assert reply_parser("chat").write("") == []


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ArgumentError, match="one of chat, grounded, .*, not 'cmd9'"):
        reply_parser("cmd9")  # type: ignore[arg-type]
