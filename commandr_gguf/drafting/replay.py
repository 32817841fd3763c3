"""Drafts of a grounded answer from the plain answer that stands before it.

In the accurate mode a model writes

    Answer: The bridge was opened in 1987.
    Grounded answer: The bridge was opened in <co: 0>1987</co: 0>.

The second line is the first with tags in it. What is drafted is text, put into tokens where it joins the reply: behind
`in <co: 0>` the word `1987` has no space before it, and `>` and the full stop that follows may be one token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from commandr_gguf.drafting.drafter import Draft, GoOn, Limit, Source
from commandr_gguf.tokenizer import Tokenizer

REPLAY = Source("replay of the answer", 0.95)

_STARS = rb"[ \t]*\**[ \t]*"
_ANSWER = re.compile(rb"^" + _STARS + rb"answer" + _STARS + rb":\**", re.IGNORECASE | re.MULTILINE)
_GROUNDED = re.compile(rb"^" + _STARS + rb"grounded answer" + _STARS + rb":\**", re.IGNORECASE | re.MULTILINE)
_CITED = re.compile(
    rb"^" + _STARS + rb"cited documents" + _STARS + rb":\**[ \t]*([0-9]+)", re.IGNORECASE | re.MULTILINE
)
_TAG = re.compile(rb"<(?P<slash>/?)co:(?P<documents>[ ,0-9]*)>")
_TAG_BEGUN = re.compile(rb"</?(?:c(?:o(?::[ ,0-9]*)?)?)?\Z")

_SUFFIXES = (64, 32, 16, 8, 4)
"""Bytes at the end of the visible text by which its place in the answer is found after a difference."""
_CONTEXT = 32
"""Bytes of the reply, at most, that are put into tokens together with what follows them."""


class AnswerReplay:
    """Drafts the grounded answer from the plain one, and the rest of a tag once it has begun.

    Small differences between the two are passed over. Replies without a plain answer get no drafts.

    Args:
        tokenizer: of the model.
        n_prompt: tokens of the prompt; the reply begins behind them.
    """

    def __init__(self, tokenizer: Tokenizer, n_prompt: int) -> None:
        self._tokenizer = tokenizer
        self._n_prompt = n_prompt
        self._forget()

    def _forget(self) -> None:
        self._tokens: list[int] = []
        """Those of the reply."""
        self._reply = bytearray()
        self._ends: list[int] = []
        """For each token of the reply: where its bytes end."""
        self._answer: _Answer | None = None
        self._begins: int | None = None
        """Where the plain answer begins, behind its mark."""
        self._line = 0
        """Where the line begins up to which marks were looked for."""

    def draft(self, tokens: Sequence[int], limit: Limit, _go_on: GoOn | None = None) -> Draft | None:
        """See `Drafter.draft`."""
        self._read(tokens)
        if self._answer is None:
            self._answer = self._find_answer()
        if self._answer is None:
            return None
        grounded = bytes(self._reply[self._answer.behind_mark :])
        begun = _TAG_BEGUN.search(grounded)
        place = self._answer.place(_TAG.sub(b"", grounded[: begun.start()] if begun else grounded))
        tags = list(_TAG.finditer(grounded))
        tail = self._rest_of_tag(begun[0] if begun else b"", tags, at_end=place == len(self._answer.text))
        if place is None or tail is None or not (tail or self._answer.text[place:]):
            return None
        n = limit(REPLAY)
        guess = self._continuation(self._answer, place, tail) if n else []
        return Draft(guess[:n], REPLAY) if guess else None

    def _read(self, tokens: Sequence[int]) -> None:
        n_read = self._n_prompt + len(self._tokens)
        if len(tokens) < n_read or (self._tokens and tokens[n_read - 1] != self._tokens[-1]):
            self._forget()  # another reply
            n_read = self._n_prompt
        for token in tokens[n_read:]:
            if not self._tokenizer.is_special(token):
                self._reply += self._tokenizer.token_bytes(token)
            self._tokens.append(token)
            self._ends.append(len(self._reply))

    def _find_answer(self) -> _Answer | None:
        mark = _ANSWER.search(self._reply, self._line) if self._begins is None else None
        self._begins = mark.end() if mark else self._begins
        end = None if self._begins is None else _GROUNDED.search(self._reply, max(self._line, self._begins))
        self._line = self._reply.rfind(b"\n") + 1
        if self._begins is None or end is None:
            return None
        text = bytes(self._reply[self._begins : end.start()]).rstrip()
        starts = [0, *self._ends]
        own = {
            starts[i] - self._begins: i
            for i in range(len(self._tokens))
            if starts[i] >= self._begins and starts[i + 1] <= self._begins + len(text)
        }
        return _Answer(text, end.end(), own, self._tokens[: max(own.values()) + 1]) if own else None

    def _rest_of_tag(self, begun: bytes, tags: list[re.Match[bytes]], *, at_end: bool) -> bytes | None:
        """What completes the tag that has begun, or closes the last one at the answer's end; None for no idea."""
        opening = [tag["documents"] for tag in tags if not tag["slash"]]
        is_open = 2 * len(opening) > len(tags)
        if not begun and not (at_end and is_open):
            return b""
        if (is_open and begun in (b"", b"<")) or begun.startswith(b"</"):
            whole = b"</co:" + opening[-1] + b">" if opening else b""
        else:
            cited = _CITED.search(self._reply)
            whole = b"<co:" + (opening[-1] if opening else b" " + (cited[1] if cited else b"0")) + b">"
        if whole.startswith(begun):
            return whole[len(begun) :]
        return b">" if begun[-1:].isdigit() else None

    def _continuation(self, answer: _Answer, place: int, tail: bytes) -> list[int]:
        """The tokens of `tail` and of the answer from `place` on."""
        joint = answer.joint(place)
        text = tail + answer.text[place:joint]
        guess = self._join(text) if text else []
        if guess is None and not tail and place in answer.starts:
            return answer.tokens_from(place)
        return (self._encode(text) if guess is None else guess) + answer.tokens_from(joint)

    def _join(self, tail: bytes) -> list[int] | None:
        """The tokens of `tail` behind the reply; None when the reply's last token would be another one with it."""
        recent = bytes(self._reply[-_CONTEXT:])
        start = max(recent.rfind(b" "), recent.rfind(b"\n"), recent.rfind(b"<") - 1, 0)
        begun = len(recent) - start
        guess = self._encode(recent[start:] + tail)
        ends = [0, *accumulate(len(self._tokenizer.token_bytes(token)) for token in guess)]
        return guess[ends.index(begun) :] if begun in ends and ends[-1] == begun + len(tail) else None

    def _encode(self, text: bytes) -> list[int]:
        try:
            return self._tokenizer.encode(text.decode(), inside=True)
        except UnicodeDecodeError:
            return []


@dataclass(frozen=True)
class _Answer:
    """A plain answer."""

    text: bytes
    behind_mark: int
    """Where the grounded answer begins, in bytes of the reply."""
    starts: dict[int, int]
    """Where in the text tokens begin -> their index in `tokens`."""
    tokens: list[int]

    def place(self, visible: bytes) -> int | None:
        """How far a grounded answer without its tags has come; None when it is past the end or the place is unknown."""
        if self.text.startswith(visible):
            return len(visible)
        end = self.text[-_SUFFIXES[1] :]
        if visible.count(end) >= self.text.count(end):
            return len(self.text) if visible.endswith(end) else None
        for n in _SUFFIXES:
            places = [match.start() + n for match in re.finditer(b"(?=" + re.escape(visible[-n:]) + b")", self.text)]
            if places and len(visible) >= n:
                return min(places, key=lambda place: abs(place - len(visible)))
        return None

    def joint(self, place: int) -> int:
        """The first place, this one or behind it, where tokens do not depend on what stands before: a word's space."""
        places = (start for start in self.starts if start >= place and self.text[start : start + 1].isspace())
        return min(places, default=len(self.text))

    def tokens_from(self, place: int) -> list[int]:
        """The tokens that the model wrote from a place on; empty when none begins there."""
        return self.tokens[self.starts[place] :] if place in self.starts else []
