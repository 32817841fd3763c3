"""Grounded replies are taken apart into what a reader sees and what points into the documents."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandr_gguf import Citation, GroundedAnswer, parse_grounded_answer
from commandr_gguf.chat.citations import parse_citations

ACCURATE = (
    "Relevant Documents: 0,2\n"
    "Cited Documents: 0\n"
    "Answer: The bridge was opened in 1987 by Ilse Tarn.\n"
    "Grounded answer: The bridge was opened in <co: 0>1987</co: 0> by <co: 0>Ilse Tarn</co: 0>."
)
TEXT = "The bridge was opened in 1987 by Ilse Tarn."
CITATIONS = [Citation(25, 29, "1987", (0,)), Citation(33, 42, "Ilse Tarn", (0,))]

# All that may be a tag, written again in another way than in the parser.
ANY_TAG = re.compile(r"<co: *\d+(?: *, *\d+)* *>|</co(?:: *(?:\d+(?: *, *\d+)*)? *)?>|</?co(?::[ ,\d]*)?$(?!\n)")
FRAGMENTS = ["<co: 0>", "<co:1>", "<co: 0, 1>", "</co: 0>", "</co:1>", "</co: 0,1>", "</co>", "<co: 3", "</co", "<co>"]
FRAGMENTS += ["a", "Ünï ", " ", "12", "<", ">", "<co: x>", ". "]
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=5)
DOCUMENTS = st.lists(st.integers(0, 20), min_size=1, max_size=3, unique=True).map(tuple)


def test_an_accurate_reply() -> None:
    assert parse_grounded_answer(ACCURATE) == GroundedAnswer(
        text=TEXT, citations=CITATIONS, relevant=[0, 2], cited=[0], answer=TEXT
    )


def test_a_fast_reply() -> None:
    reply = re.sub("\nAnswer: .*", "", ACCURATE)
    assert parse_grounded_answer(reply) == GroundedAnswer(
        text=TEXT, citations=CITATIONS, relevant=[0, 2], cited=[0], answer=None
    )


def test_no_document_holds_the_answer() -> None:
    reply = "Relevant Documents: None\nCited Documents: None\nAnswer: I do not know.\nGrounded answer: I do not know."
    assert parse_grounded_answer(reply) == GroundedAnswer(text="I do not know.", answer="I do not know.")


@pytest.mark.parametrize(
    ("line", "numbers"),
    [
        ("0,1", [0, 1]),
        ("0, 1 , 12", [0, 1, 12]),
        ("", []),
        ("None", []),
        ("none of them", []),
        ("2 and more", [2]),
        ("Document 1", []),
    ],
)
def test_numbers_of_documents(line: str, numbers: list[int]) -> None:
    answer = parse_grounded_answer(f"Relevant Documents: {line}\nCited Documents: {line}\nGrounded answer: x")
    assert (answer.relevant, answer.cited, answer.text) == (numbers, numbers, "x")


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("", ""),
        ("The bridge is old.", "The bridge is old."),
        ("It opened in <co: 0>1987</co: 0>.", "It opened in 1987."),
        ("Step one.\nAnswer: four\n", "Step one.\nAnswer: four"),
        ("Answer: four", "four"),
        ("Relevant Documents: 0\nCited Documents: 0\nAnswer: It is old", "It is old"),
        ("Relevant Documents: 0\nCited Documents: 0\nAnswer: It is old.\nGrounded answer:", "It is old."),
        ("Answer: It is old.\nGrounded answer:\n", "It is old."),
        ("Answer: It is old.\nGrounded answer: <co: 0> </co: 0>\n", "It is old."),
        ("Relevant Documents: 0\nCited Documents: 0\nIt is old.\nVery old.", "It is old.\nVery old."),
        ("Relevant Documents: 0\nCited Docu", "Cited Docu"),
        ("Relevant Documents: 0,1", ""),
        ("Let me see.\nGrounded answer: It is old.", "Let me see.\nIt is old."),
        ("Let me see.\nRelevant Documents: 0\nHm.\nAnswer: It is old.", "Let me see.\nHm.\nIt is old."),
        ("relevant documents: 0\nGROUNDED ANSWER :  It is old.", "It is old."),
        (
            "Grounded answer: It says:\nAnswer: four\nRelevant Documents: 5",
            "It says:\nAnswer: four\nRelevant Documents: 5",
        ),
    ],
)
def test_replies_that_lack_marks_or_have_them_elsewhere(reply: str, text: str) -> None:
    assert parse_grounded_answer(reply).text == text


@pytest.mark.parametrize("form", ["**{}:** ", "**{}**: ", "** {} **: ", "*{}:* ", "***{}:***\n", "* {}: "])
def test_marks_in_markdown(form: str) -> None:
    reply = ACCURATE
    for mark in ("Relevant Documents", "Cited Documents", "Answer", "Grounded answer"):
        reply = re.sub(f"^{mark}: ", form.format(mark), reply, flags=re.MULTILINE)
    if "\n" in form:
        reply = reply.replace("Documents:***\n", "Documents:*** ")
    expected = parse_grounded_answer(ACCURATE)
    found = parse_grounded_answer(reply)
    assert (found.text, found.citations, found.relevant, found.cited) == (TEXT, CITATIONS, [0, 2], [0])
    assert found.answer is not None
    assert found.answer.strip("*") == expected.answer


@pytest.mark.parametrize("answer", ["*Moby Dick* is old.", "**4**", "4 * 5", "* one\n* two"])
def test_asterisks_of_an_answer_are_its_own(answer: str) -> None:
    assert parse_grounded_answer(f"Answer: {answer}").text == answer
    assert parse_grounded_answer(f"Cited Documents: None\n**Grounded answer:** {answer}").text == answer


def test_a_reply_without_marks_keeps_its_citations() -> None:
    assert parse_grounded_answer("It opened in <co: 0>1987</co: 0>.").citations == [Citation(13, 17, "1987", (0,))]


@pytest.mark.parametrize(
    ("text", "visible", "spans"),
    [
        ("<co: 0,1>a</co: 0,1>", "a", [("a", (0, 1))]),
        ("<co: 0, 1>a</co: 0, 1>", "a", [("a", (0, 1))]),
        ("<co:2>a</co:2>", "a", [("a", (2,))]),
        ("<co: 1, 1>a</co: 1>", "a", [("a", (1,))]),
        ("<co: 0>a</co>", "a", [("a", (0,))]),
        ("<co: 0>a</co: >", "a", [("a", (0,))]),
        ("<co: 0,1>a</co: 0>", "a", [("a", (0, 1))]),
        # side by side, nested, overlapping
        ("<co: 0>a</co: 0><co: 1>b</co: 1>", "ab", [("a", (0,)), ("b", (1,))]),
        ("<co: 0>a <co: 1>b</co: 1> c</co: 0>", "a b c", [("a b c", (0,)), ("b", (1,))]),
        ("<co: 0>a<co: 0>b</co: 0>c</co: 0>", "abc", [("abc", (0,)), ("b", (0,))]),
        ("<co: 0>a<co: 1>b</co: 0>c</co: 1>", "abc", [("ab", (0,)), ("bc", (1,))]),
        # never closed, never opened, cut by the end of the reply
        ("in <co: 0>1987 and <co: 1>later</co: 1>.", "in 1987 and later.", [("1987 and", (0,)), ("later", (1,))]),
        ("in <co: 0>1987 ", "in 1987", [("1987", (0,))]),
        ("in 1987</co: 0>.", "in 1987.", []),
        ("in <co: 0>1987</co: 0", "in 1987", [("1987", (0,))]),
        ("in <co: 0>1987</co", "in 1987", [("1987", (0,))]),
        ("in 1987 <co: 0, ", "in 1987", []),
        ("in <co: 0>1987</", "in 1987", [("1987", (0,))]),
        ("in <co: 0>1987</c", "in 1987", [("1987", (0,))]),
        ("in 1987 <c", "in 1987", []),
        # nothing cited
        ("a<co: 0></co: 0>b", "ab", []),
        ("<co: 0> </co: 0>", "", []),
        ("a<co: 0> </co: 0>b", "a b", []),
        # cited twice
        ("<co: 0><co: 0>a</co: 0></co: 0>", "a", [("a", (0,))]),
        ("<co: 1><co: 0>a</co: 0></co: 1>", "a", [("a", (0,)), ("a", (1,))]),
        # white space at the ends
        ("  <co: 0> a</co: 0> b ", "a b", [("a", (0,))]),
        # what is no tag
        ("a <co> b", "a <co> b", []),
        ("a <co: x>b</co: x>", "a <co: x>b</co: x>", []),
        ("a < b > c <", "a < b > c <", []),
        (f"<co: {'9' * 20}>a", f"<co: {'9' * 20}>a", []),
    ],
)
def test_tags(text: str, visible: str, spans: list[tuple[str, tuple[int, ...]]]) -> None:
    found, citations = parse_citations(text)
    assert found == visible
    assert [(citation.text, citation.documents) for citation in citations] == spans


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))
def test_the_visible_text_is_the_reply_without_tags(reply: str) -> None:
    answer = parse_grounded_answer(reply)
    assert answer.text == ANY_TAG.sub("", reply).strip()
    check_offsets(answer)


@given(st.text(), st.lists(st.sampled_from([*FRAGMENTS, *ACCURATE.split("\n"), "\n", "Answer:", "Grounded answer:"])))
def test_any_reply_is_taken(text: str, fragments: list[str]) -> None:
    for reply in (text, "".join(fragments), text.join(fragments)):
        answer = parse_grounded_answer(reply)
        check_offsets(answer)
        assert all(document >= 0 for document in (*answer.relevant, *answer.cited))


def check_offsets(answer: GroundedAnswer) -> None:
    for citation in answer.citations:
        assert 0 <= citation.start < citation.end <= len(answer.text)
        assert answer.text[citation.start : citation.end] == citation.text
        assert citation.documents
    places = [(citation.start, -citation.end) for citation in answer.citations]
    assert places == sorted(places)


@given(st.lists(st.tuples(PLAIN, DOCUMENTS, PLAIN.filter(str.strip)), max_size=5), PLAIN)
def test_what_is_cited_is_found(parts: list[tuple[str, tuple[int, ...], str]], end: str) -> None:
    tagged, visible, spans = "|", "|", []
    for before, documents, span in parts:
        numbers = ", ".join(map(str, documents))
        tagged += f"{before}<co: {numbers}>{span}</co: {numbers}>"
        visible += before
        spans.append(Citation(len(visible), len(visible) + len(span), span, documents))
        visible += span
    assert parse_citations(f"{tagged}{end}|") == (f"{visible}{end}|", spans)


@given(
    relevant=st.lists(st.integers(0, 30), max_size=4),
    cited=st.lists(st.integers(0, 30), max_size=4),
    plain=st.none() | st.text(st.sampled_from(list("abc: \nAÜ")), min_size=1).map(lambda text: f"a{text}a"),
)
def test_the_parts_of_a_reply(relevant: list[int], cited: list[int], plain: str | None) -> None:
    lines = [f"{mark} Documents: {','.join(map(str, numbers)) or 'None'}\n" for mark, numbers in
             (("Relevant", relevant), ("Cited", cited))]  # fmt: skip
    lines += [] if plain is None else [f"Answer: {plain}\n"]
    answer = parse_grounded_answer("".join([*lines, "Grounded answer: <co: 3>x</co: 3>"]))
    assert answer == GroundedAnswer("x", [Citation(0, 1, "x", (3,))], relevant, cited, plain)


@pytest.mark.parametrize("cut", ["G", "Grounded ans", "**Grounded answer**"])
def test_a_mark_that_the_end_cuts_is_no_part_of_the_answer(cut: str) -> None:
    found = parse_grounded_answer(f"Answer: It is old.\n{cut}")
    assert (found.text, found.answer) == ("It is old.", "It is old.")
