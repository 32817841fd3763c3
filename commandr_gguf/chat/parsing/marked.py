"""Replies in the formats of the first Command-R, whose parts have marks at the beginnings of lines.

    Plan: I look up the bridge.          Relevant Documents: 0,1
    Action: ```json                      Cited Documents: 0
    [                                    Answer: It opened in 1987.
        {                                Grounded answer: It opened in <co: 0>1987</co: 0>.
            "tool_name": "search",
            "parameters": {}
        }
    ]```

This does without cohere-melody, which reads well-formed replies of these formats and little else: it drops the text of
replies without marks and of calls that are not valid, keeps one document of `<co: 0, 1>`, shows `<co:2>` and nested
tags as text, leaves a space in front of fast answers, and gives other results for other splits into pieces when a tag
is not as it expects.

What belongs to no mark is visible text, at once: what stands in front of marks, below a line of numbers, or behind a
list of actions.
"""

from __future__ import annotations

import re
from typing import Literal

from commandr_gguf.chat.actions import EMPTY_LIST, MARKED_LIST, SPACE, UNMARKED_LIST, ActionList
from commandr_gguf.chat.events import CitedDocuments, Part, PlainAnswer, Plan, RelevantDocuments, Text
from commandr_gguf.chat.marks import (
    ACTION,
    ANSWER,
    CITED,
    GROUNDED,
    MAX_STARS,
    PLAN,
    REFLECTION,
    RELEVANT,
    mark_pattern,
    may_become_mark,
)
from commandr_gguf.chat.tags import CitedText, read_numbers
from commandr_gguf.chat.visible import Citation, VisibleText

_ORDER = (RELEVANT, CITED, ANSWER, GROUNDED)
_Section = Literal["text", "plan", "numbers", "answer", "grounded", "action", "list", "end of list"]
# What may still become MARKED_LIST or UNMARKED_LIST.
_LIST_BEGINNING = re.compile(
    r"(?:`{1,2}|```(?:j|js|jso)?"
    rf'|(?:```(?:json)?{SPACE})?(?:\[{SPACE}(?:\[{SPACE})?)?(?:\{{{SPACE}(?:"[a-z_]{{0,12}})?)?)\Z'
)
_LINE_OR_LIST, _LINE = re.compile(r"\n|(?=[`\[])"), re.compile(r"\n")
_END_OF_FENCE, _ITS_BEGINNING = re.compile(rf"{SPACE}```"), re.compile(rf"{SPACE}`{{0,2}}\Z")


class MarkedReply:
    """Parser of the formats with marks."""

    def __init__(self, *, actions: bool, grounded: bool) -> None:
        """`actions`: there may be a list of actions; `grounded`: numbers and answers; with both, also plans."""
        self._wants_actions = actions
        self._wants_grounded = grounded
        self._held = ""
        self._at_line = True
        """What is held begins a line."""
        self._section: _Section = "text"
        self._rank = -1
        """The last mark of _ORDER."""
        self._marked = False
        """There was a mark or a list."""
        self._text, self._answer, self._plan = CitedText(), CitedText(), VisibleText()
        self._line = ""
        """Of numbers, so far."""
        self._plain: list[str] = []
        """The answer without citations, as written."""
        self._grounded_from = 0
        """Visible characters in front of the grounded answer."""
        self._written: list[str] = []
        """The actions as written, from their mark to the beginning of their list."""
        self._list = ActionList("[")
        self._events: list[Part] = []

    def write(self, text: str) -> list[Part]:
        """Add a piece of the reply; returns the events that it completes."""
        self._held += text
        self._read(final=False)
        return self._take()

    def flush(self, *, cut: bool = False) -> list[Part]:
        """The last events, when no more text comes.

        With `cut`, a tool call, a line of numbers, a mark or a tag that is not complete is left out. A grounded answer
        that was cut is completed by the plain one before it, where it has the same words as far as it came.
        """
        if cut:
            self._drop_unfinished()
        else:
            self._read(final=True)
            if self._section == "numbers":
                self._numbers()
            elif self._section == "action":
                self._end_without_list()
            elif self._section == "list":
                self._list.end()
                self._show(self._text.write_plain(self._list.refused))
        self._show(self._text.cut())
        plain = "".join(self._plain)
        if plain and self._text.solid == self._grounded_from:
            self._text.forget_open()
            self._show(self._text.write(plain))
            if cut:
                self._text.drop_held()
            plain = ""
        self._show(self._text.flush())
        if cut and plain and self._section == "grounded":
            self._complete()
        self._pass_on(PlainAnswer, self._answer.flush())
        return self._take()

    def _drop_unfinished(self) -> None:
        self._held = ""
        self._text.drop_held()
        self._answer.drop_held()
        if self._section == "action" and "".join(self._written[1:]).strip():
            self._end_without_list()

    def _complete(self) -> None:
        """Add to the grounded answer what the plain one goes on with."""
        grounded = self._text.behind(self._grounded_from).lstrip()
        plain = self._answer.behind(0).rstrip()
        if plain.startswith(grounded):
            self._show(self._text.write_plain(plain[len(grounded) :]))

    def _take(self) -> list[Part]:
        events, self._events = self._events, []
        return events

    def _read(self, *, final: bool) -> None:
        """Take from what is held all that can be told by now."""
        position = 0
        while position < len(self._held):
            if self._section == "list":
                self._held, position = self._read_list(self._held[position:]), 0
                continue
            before = self._section, self._at_line, position
            if self._section == "end of list":
                position = self._end_of_list(position, final=final)
            elif self._at_line:
                position = self._begin_line(position, final=final)
            else:
                position = self._go_on(position, final=final)
            if before == (self._section, self._at_line, position):
                break
        self._held = self._held[position:]

    def _begin_line(self, position: int, *, final: bool) -> int:
        names = self._expected_marks()
        if names:
            mark = mark_pattern(*names).match(self._held, position)
            if mark is not None:
                rest = self._held[mark.end() :]
                if not final and len(rest) < MAX_STARS and not rest.strip("*"):  # asterisks and space may belong to it
                    return position
                self._at_line = False
                self._begin_section(mark["name"].lower(), mark[0])
                return mark.end()
            end = self._held.find("\n", position)
            if end < 0 and may_become_mark(self._held[position:], names):
                if not final:
                    return position
                # The last line of the answer without citations is the next mark, cut by the end of the reply.
                if self._section == "answer" and self._held[position:].strip("* \t"):
                    return len(self._held)
        self._at_line = False
        return position

    def _go_on(self, position: int, *, final: bool) -> int:
        """Read to the end of the line, or to a list of actions."""
        lists = self._expected_list()
        place = (_LINE if lists is None else _LINE_OR_LIST).search(self._held, position)
        if place is None:
            self._put(self._held[position:])
            return len(self._held)
        if place[0]:
            self._at_line = True
            self._put(self._held[position : place.end()])
            return place.end()
        start = place.start()
        if start > position:
            self._put(self._held[position:start])
        opened = lists.match(self._held, start) if lists is not None else None
        if opened is not None:
            self._begin_list(self._held[start : opened.end()])
            return opened.end()
        if not final and _LIST_BEGINNING.match(self._held, start):
            return start
        self._put(self._held[start])
        return start + 1

    def _expected_marks(self) -> tuple[str, ...]:
        """The marks that may come here.

        An answer may have a line that begins with "Answer:" or "Plan:": a mark counts once, in its order, and these
        only where nothing visible is in front of them, or a mark.
        """
        names: tuple[str, ...] = ()
        if self._wants_actions and self._rank < 0 and not self._written:
            plans = self._wants_grounded and not self._text.solid
            names = (PLAN, REFLECTION, ACTION) if plans else (ACTION,)
        if self._wants_grounded:
            order = _ORDER if self._marked or not self._text.solid else (RELEVANT, CITED, "", GROUNDED)
            names += tuple(name for name in order[self._rank + 1 :] if name)
        return names

    def _expected_list(self) -> re.Pattern[str] | None:
        if self._section == "action":
            return MARKED_LIST
        return UNMARKED_LIST if self._wants_actions and self._rank < 0 and not self._written else None

    def _begin_section(self, name: str, mark: str) -> None:
        self._marked = True
        if self._section == "action":
            self._end_without_list()
        self._show(self._text.cut())
        self._pass_on(PlainAnswer, self._answer.flush())
        if name == ACTION:
            self._section, self._written = "action", [mark]
        elif name in {PLAN, REFLECTION}:
            self._section = "plan"
        else:
            self._rank = _ORDER.index(name)
            sections: tuple[_Section, ...] = ("numbers", "numbers", "answer", "grounded")
            self._section = sections[self._rank]
            self._grounded_from = self._text.solid

    def _put(self, text: str) -> None:
        if self._section == "plan":
            self._pass_on(Plan, self._plan.write(text))
        elif self._section == "answer":
            self._plain.append(text)
            self._pass_on(PlainAnswer, self._answer.write(text))
        elif self._section == "action":
            self._written.append(text)
        elif self._section == "numbers":
            self._line += text
            if self._at_line:
                self._numbers()
        else:
            self._show(self._text.write(text))

    def _numbers(self) -> None:
        event = RelevantDocuments if self._rank == 0 else CitedDocuments
        self._events.append(event(tuple(read_numbers(self._line))))
        self._section, self._line = "text", ""

    def _begin_list(self, opening: str) -> None:
        self._marked = True
        self._section = "list"
        self._show(self._text.cut())
        self._written.append(opening)
        self._list = ActionList("".join(self._written))

    def _read_list(self, text: str) -> str:
        """Returns what stands behind the list."""
        self._events += self._list.write(text)
        if not self._list.over:
            return ""
        self._section = "text" if self._list.refused else "end of list"
        self._show(self._text.write_plain(self._list.refused))
        return self._list.rest

    def _end_of_list(self, position: int, *, final: bool) -> int:
        fence = _END_OF_FENCE.match(self._held, position)
        if fence is None and not final and _ITS_BEGINNING.match(self._held, position):
            return position
        self._section = "text"
        return position if fence is None else fence.end()

    def _end_without_list(self) -> None:
        """Behind the mark of the actions is nothing like a list, unless it is an empty one."""
        self._section = "text"
        written = "".join(self._written)
        empty = EMPTY_LIST.search(written)
        if empty is None or not mark_pattern(ACTION).fullmatch(written, 0, empty.start()):
            self._show(self._text.write_plain(written))
        else:
            self._show(self._text.write(written[empty.end() :].partition("]")[2]))

    def _show(self, given: list[str | Citation]) -> None:
        self._events += (Text(item) if isinstance(item, str) else item for item in given)

    def _pass_on(self, kind: type[Plan | PlainAnswer], given: list[str | Citation]) -> None:
        self._events += (kind(item) for item in given if isinstance(item, str))
