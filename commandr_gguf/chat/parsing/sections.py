"""Replies of Command R7B ("cmd3") and Command A ("cmd4"), whose sections stand between tokens of their own.

    <|START_THINKING|>I look it up.<|END_THINKING|><|START_ACTION|>[
        {"tool_call_id": "0", "tool_name": "search", "parameters": {}}
    ]<|END_ACTION|>
    <|START_RESPONSE|>It opened in <co>1987</co: 0:[1,2],1:[0]>.<|END_RESPONSE|>

cmd4 has TEXT in the place of RESPONSE. A closing tag names the results of tool calls by the numbers of both.

cohere-melody reads the thinking and the answer. It is right about replies as they should be, and about characters: its
offsets count characters, not bytes. What it would get wrong is kept from it:

- a closing tag that is not as it expects (`</co>`, `</co:0:[1]>`) leaks into the text, another part of it for every
  split into pieces; and a tag in a span ends that span. So it gets tags whole, in its own form, and never nested.
- it drops white space in front of the answer or not, depending on where the answer begins, and what stands behind its
  end. `VisibleText` and this module do that.
- of tool calls it drops those without `tool_call_id` and those whose keys have another order, gives `{}` as an empty
  string, and nothing of a list that is not valid. `ActionList` reads them.
- it takes a reply of cmd4 without sections for thinking; here that is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

import cohere_melody

from commandr_gguf.chat.actions import ActionList
from commandr_gguf.chat.events import Part, Plan, Text
from commandr_gguf.chat.visible import Citation, VisibleText

_SECTIONS = ("THINKING", "RESPONSE", "TEXT", "ACTION")
_MARKERS = [f"<|{side}_{section}|>" for section in _SECTIONS for side in ("START", "END")]
_SOURCES = r"[\s0-9:,\[\]]{0,2000}"
"""In a closing tag. The limit is there so that no endless list of numbers is held back."""
_TOKEN = re.compile(rf"{'|'.join(map(re.escape, _MARKERS))}|<co>|</co(?::(?P<sources>{_SOURCES}))?>")
_BEGINNING = re.compile(
    rf"(?:{'|'.join(sorted({re.escape(m[:n]) for m in _MARKERS for n in range(1, len(m))}))}"
    rf"|</?(?:c(?:o)?)?|</co:{_SOURCES})\Z"
)
"""What may still become a token."""
_CUT = re.compile(r"<\|(?:START|END)_|</?co")
_SOURCE = re.compile(r"([0-9]{1,9})\s*:\s*\[([\s0-9,]*)\]")


class SectionedReply:
    """Parser of replies with sections, of either format."""

    def __init__(self, n_results: Sequence[int] | None = None) -> None:
        """`n_results`: how many results each tool call in the prompt has, in its order; documents are the first call's.

        With them, the results of all calls are numbered on from 0, and what is cited beyond them is left out. None
        stands for a single call with any number of results.
        """
        self._first = None if n_results is None else [0, *accumulate(n_results)]
        self._held = ""
        self._melody = cohere_melody.PyFilter(cohere_melody.PyFilterOptions().cmd4().start_in_answer())
        self._text, self._plan = VisibleText(), VisibleText()
        self._shift = 0
        """How many characters of the visible text are none of melody's."""
        self._depth = 0
        """Opened spans."""
        self._ended = False
        """The answer has ended."""
        self._in_actions = False
        self._actions: ActionList | None = None
        """Those of the section, once they have begun."""
        self._events: list[Part] = []

    def write(self, text: str) -> list[Part]:
        """Add a piece of the reply; returns the events that it completes."""
        text = self._held + text
        position = 0
        for token in _TOKEN.finditer(text):
            self._plain(text[position : token.start()])
            self._token(token)
            position = token.end()
        beginning = _BEGINNING.search(text, position)
        end = len(text) if beginning is None else beginning.start()
        self._held = text[end:]
        self._plain(text[position:end])
        return self._take()

    def flush(self, *, cut: bool = False) -> list[Part]:
        """The last events, when no more text comes; with `cut`, without a tool call that is not complete."""
        held, self._held = self._held, ""
        if not cut and not _CUT.match(held):
            self._plain(held)
        if not cut:
            self._end_actions()
        self._pass_on(self._melody.flush_partials())
        self._show(self._text.flush())
        return self._take()

    def _take(self) -> list[Part]:
        events, self._events = self._events, []
        return events

    def _token(self, token: re.Match[str]) -> None:
        text = token[0]
        if self._actions is not None and self._actions.in_string:
            self._write_actions(text)
        elif text.startswith("<|"):
            self._end_actions()
            if text == "<|START_ACTION|>":
                self._in_actions = True
            elif text != "<|END_ACTION|>":
                self._depth = 0
                self._ended = text in {"<|END_RESPONSE|>", "<|END_TEXT|>"}
                self._pass_on(self._melody.write_decoded(text))
        elif self._in_actions:
            self._write_actions(text)
        elif text == "<co>":
            self._depth += 1
            if self._depth == 1 and not self._ended:
                self._pass_on(self._melody.write_decoded(text))
        elif self._depth:
            self._depth -= 1
            if not self._depth and not self._ended:
                self._pass_on(self._melody.write_decoded(_closing_tag(token["sources"] or "")))

    def _plain(self, text: str) -> None:
        if self._in_actions:
            self._write_actions(text)
        elif self._ended:
            self._add(text)
        else:
            for character in text:  # one by one, so that it cannot tell how the text was split
                self._pass_on(self._melody.write_decoded(character))

    def _write_actions(self, text: str) -> None:
        if self._actions is None:
            text = text.lstrip()
            if not text:
                return
            self._actions = ActionList(text[0])
            text = self._actions.refused + text[1:]
        if not self._actions.over:
            self._events += self._actions.write(text)
            text = self._actions.left_over
        self._add(text)

    def _end_actions(self) -> None:
        if self._actions is not None and not self._actions.over:
            self._actions.end()
            self._add(self._actions.refused.removesuffix("<|END_ACTION|>"))  # held for a part of a string
        self._in_actions, self._actions = False, None

    def _add(self, text: str) -> None:
        """Show what melody does not."""
        self._shift += len(text)
        self._show(self._text.write(text))

    def _pass_on(self, result: cohere_melody.FilterAggregatedResult) -> None:
        self._events += (Plan(item) for item in self._plan.write(result.reasoning or "") if isinstance(item, str))
        self._show(self._text.write(result.content or ""))
        for citation in result.citations:
            documents = self._documents(citation.sources)
            if documents and not citation.is_thinking:
                start, end = citation.start_index + self._shift, citation.end_index + self._shift
                self._show(self._text.cite(start, end, documents))

    def _documents(self, sources: Sequence[cohere_melody.Source]) -> tuple[int, ...]:
        """The numbers of cited results, without repetitions."""
        numbers = []
        for source in sources:
            call = source.tool_call_index
            if self._first is None:
                numbers += source.tool_result_indices if call == 0 else []
            elif call < len(self._first) - 1:
                first, end = self._first[call], self._first[call + 1]
                numbers += [first + index for index in source.tool_result_indices if first + index < end]
        return tuple(dict.fromkeys(numbers))

    def _show(self, given: list[str | Citation]) -> None:
        self._events += (Text(item) if isinstance(item, str) else item for item in given)


def _closing_tag(sources: str) -> str:
    """A closing tag in the form that melody reads."""
    calls = (
        f"{int(call)}:[{','.join(str(int(index)) for index in re.findall(r'[0-9]{1,9}', indices))}]"
        for call, indices in _SOURCE.findall(sources)
    )
    return f"</co: {','.join(calls) or '0:[]'}>"
