"""What a model is asked, checked: messages with documents or tools, and which kind of prompt shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from commandr_gguf.chat.command_a import Family, command_a_data
from commandr_gguf.chat.documents import CheckedDocument, Document, normalize_documents
from commandr_gguf.chat.filter import ReplyFormat
from commandr_gguf.chat.messages import Message, normalize
from commandr_gguf.chat.multi_step import multi_step_data
from commandr_gguf.chat.prompt import DEFAULT
from commandr_gguf.chat.rounds import plain_turns, result_documents
from commandr_gguf.chat.tools import Tool, normalize_tools
from commandr_gguf.errors import ArgumentError, UnsupportedError, flag

Messages = Iterable[Mapping[str, Any]]
Documents = Iterable[str | Document]
Tools = Iterable[Mapping[str, Any] | Callable[..., Any]]
CitationMode = Literal["accurate", "fast"]
"""accurate: the model writes its answer twice, the second time with citations; fast: once, with citations. Command R7B
and Command A know one mode only."""
_FORMATS: dict[str, ReplyFormat] = {"default": "chat", "rag": "grounded", "tool_use": "tools"}


@dataclass(frozen=True)
class Request:
    """A checked request."""

    template: str
    """What shows it: a chat template of the file, default, tool_use or rag; or multi_step, cmd3 or cmd4."""
    reply_format: ReplyFormat
    """What the reply will look like; of a parser for cmd3 and cmd4, `n_results` are the lengths of `citable_groups`."""
    messages: list[Message]
    documents: list[CheckedDocument] | None
    tools: list[Tool] | None
    citation_mode: CitationMode
    data: dict[str, Any]
    """The variables of the template. Every string is untrusted."""

    @property
    def citable(self) -> list[CheckedDocument]:
        """All that a reply may cite, in the order of its numbers: the documents, then the results of tools."""
        if self.template in {"cmd3", "cmd4"}:
            return [document for group in self.citable_groups for document in group]
        return [*(self.documents or []), *(result for _, result in _results(self.messages))]

    @property
    def citable_groups(self) -> list[list[CheckedDocument]]:
        """What citations of cmd3 and cmd4 count by: the documents, if there are any, then each call's results."""
        n_calls = sum(len(message.get("tool_calls", ())) for message in self.messages)
        groups: list[list[CheckedDocument]] = [[] for _ in range(n_calls)]
        for call, result in _results(self.messages):
            groups[call].append(result)
        return [self.documents, *groups] if self.documents else groups


def make_request(
    messages: Messages,
    documents: Documents | None = None,
    tools: Tools | None = None,
    citation_mode: CitationMode = "accurate",
    *,
    multi_step: bool | None = None,
    family: Family = "command-r",
) -> Request:
    """Check a request and choose what shows it.

    For Command-R that is the template rag for documents, be they none, tool_use for tools, and else default; but the
    multi-step prompt where the conversation has results of tools. Command R7B and Command A have one prompt for all of
    that, and may be given documents and tools together.

    Args:
        messages: see `messages.normalize`.
        documents: see `documents.normalize_documents`.
        tools: see `tools.normalize_tools`.
        citation_mode: of answers from documents.
        multi_step: True for the multi-step prompt from the first step on; False for that of one step in any case, where
            results of tools are shown as system turns. Not for Command R7B and Command A, which always take steps.
        family: the kind of prompt that the model reads.

    Raises:
        ArgumentError: an argument is not of its form, or Command-R is given both documents and tools.
        UnsupportedError: the model reads a kind of prompt that cannot be written.
    """
    if citation_mode not in get_args(CitationMode):
        raise ArgumentError(f"citation_mode must be 'accurate' or 'fast', not {citation_mode!r}")
    if multi_step is not None:
        flag("multi_step", multi_step)
    checked = normalize(messages)
    known = None if documents is None else normalize_documents(documents)
    offered = None if tools is None else normalize_tools(tools)
    if family != "command-r":
        has_calls = any("tool_calls" in message for message in checked)
        template = family if known or offered or has_calls else DEFAULT
        if template == "cmd5":
            raise UnsupportedError(
                "the model's chat template is of the kind cmd5; tools and documents are known only up to cmd4"
            )
        data = (
            _plain_data(checked, None, None)
            if template == DEFAULT
            else command_a_data(checked, known or [], offered or [])
        )
        return Request(template, "cmd3" if family == "cmd3" else "cmd4", checked, known, offered, citation_mode, data)
    if known is not None and offered is not None:
        raise ArgumentError("documents and tools cannot be given together: each has a prompt of its own")
    if multi_step is None:
        multi_step = known is None and any(message["role"] == "tool" for message in checked)
    if multi_step and known is None:
        data = multi_step_data(checked, offered or [])
        return Request("multi_step", "multi_step", checked, known, offered, citation_mode, data)
    if multi_step:
        raise ArgumentError("documents cannot be given for multi_step: the results of its tools are its documents")
    template = "rag" if known is not None else "tool_use" if offered is not None else DEFAULT
    data = _plain_data(checked, known, offered)
    return Request(template, _FORMATS[template], checked, known, offered, citation_mode, data)


def _results(messages: list[Message]) -> Iterator[tuple[int, CheckedDocument]]:
    """Each document that tools gave, with the number of its call in the conversation."""
    numbers: dict[str, int] = {}
    n_calls = 0
    for message in messages:
        for call in message.get("tool_calls", ()):
            numbers[call["id"]] = n_calls
            n_calls += 1
        if message["role"] == "tool":
            call_id = message["tool_call_id"]
            ids = [result["id"] for result in message["documents"]] if "documents" in message else [f"{call_id}:0"]
            for name, data in zip(ids, result_documents(message), strict=True):
                yield numbers[call_id], CheckedDocument(name, data)


def _plain_data(
    messages: list[Message], documents: list[CheckedDocument] | None, tools: list[Tool] | None
) -> dict[str, Any]:
    """The variables of a chat template as the published ones use them."""
    return {
        "messages": plain_turns(messages),
        "documents": None if documents is None else [document.texts for document in documents],
        "tools": None
        if tools is None
        else [{key: value for key, value in tool.items() if key != "parameters"} for tool in tools],
    }
