"""The answer and the citations of a complete grounded reply.

A model that was given documents writes

    Relevant Documents: 0,1
    Cited Documents: 0
    Answer: The bridge was opened in 1987.
    Grounded answer: The bridge was opened in <co: 0>1987</co: 0>.

or, in the fast mode, the same without the line `Answer:`. Numbers are those of the documents, from 0; `None` stands for
no document. Spans may hold others or overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from commandr_gguf.chat.parsing.marked import MarkedReply
from commandr_gguf.chat.reply_builder import ReplyBuilder
from commandr_gguf.chat.tags import parse_citations
from commandr_gguf.chat.visible import Citation

__all__ = ["Citation", "GroundedAnswer", "parse_citations", "parse_grounded_answer"]


@dataclass(frozen=True)
class GroundedAnswer:
    """A grounded reply in its parts."""

    text: str
    """What a reader is to see: the grounded answer without tags, or, when that is missing or blank, the plain answer;
    behind text that belongs to no mark, if there is any."""
    citations: list[Citation] = field(default_factory=list)
    """Spans of `text` in the order of their starts; the longer first where two start together."""
    relevant: list[int] = field(default_factory=list)
    """Documents that the model found relevant."""
    cited: list[int] = field(default_factory=list)
    """Documents that the model announced to cite, which need not be those of `citations`."""
    answer: str | None = None
    """The plain answer; None when the reply has none, as in the fast mode."""


def parse_grounded_answer(reply: str) -> GroundedAnswer:
    """Take a complete grounded reply apart. Any text is taken; see `GroundedAnswer.text` for replies without marks.

    The parser of streams reads it, so that a stream has the same result. The forms of tags are told in `chat.tags`,
    those of marks in `chat.marks`.
    """
    parser, builder = MarkedReply(actions=False, grounded=True), ReplyBuilder()
    for event in parser.write(reply) + parser.flush():
        builder.add(event)
    parts = builder.build()
    return GroundedAnswer(parts.text, parts.citations, parts.documents_relevant, parts.documents_cited, parts.answer)
