"""What a model is asked, checked: messages with documents or tools, and which kind of prompt shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from commandr_gguf.chat.command_a import Family, SafetyMode, command_a_data
from commandr_gguf.chat.documents import CheckedDocument, Document, normalize_documents
from commandr_gguf.chat.filter import ReplyFormat
from commandr_gguf.chat.messages import Message, normalize
from commandr_gguf.chat.multi_step import multi_step_data
from commandr_gguf.chat.prompt import DEFAULT
from commandr_gguf.chat.rounds import result_documents, words_of
from commandr_gguf.chat.tools import Tool, normalize_tools
from commandr_gguf.errors import ArgumentError, UnsupportedError, flag

Messages = Iterable[Mapping[str, Any]]
Documents = Iterable[str | Document]
Tools = Iterable[Mapping[str, Any] | Callable[..., Any]]
CitationMode = Literal["accurate", "fast", "off"]
"""accurate: the model writes its answer twice, the second time with citations; fast: once, with citations; off: Command
R7B and Command A are told not to cite, and know one mode to cite only."""
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
    """Those that were given."""
    tools: list[Tool] | None
    """Those that the prompt shows."""
    citation_mode: CitationMode
    data: dict[str, Any]
    """The variables of the template. Every string is untrusted."""
    safety_mode: SafetyMode | None = None
    reasoning: bool | None = None

    @property
    def citable(self) -> list[CheckedDocument]:
        """All that a reply may cite, in the order of its numbers: the documents, then the results of tools."""
        if self.template in {"cmd3", "cmd4"}:
            return [document for group in self.citable_groups for document in group]
        if self.template == "multi_step":
            return [result for _, result in _results(self.messages)]
        return _shown(self.messages, self.documents)

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
    safety_mode: SafetyMode | None = None,
    reasoning: bool | None = None,
    family: Family = "command-r",
) -> Request:
    """Check a request and choose what shows it.

    For Command-R that is the template rag for documents, be they none, tool_use for tools, and else default; but the
    multi-step prompt where the conversation has results of tools. With `multi_step=False` tools take one step: where
    the conversation ends with their results, these are the documents of the template rag, and no tools are shown.
    All these templates show words only: calls and earlier results are left out. Results at the end of a conversation
    stand behind documents that are given. Command R7B and Command A have one prompt for all of that, and may be given
    documents and tools together.

    Args:
        messages: see `messages.normalize`.
        documents: see `documents.normalize_documents`.
        tools: see `tools.normalize_tools`.
        citation_mode: of answers from documents.
        multi_step: True for the multi-step prompt from the first step on; False for prompts of one step in any case.
            Not for Command R7B and Command A, which always take steps.
        safety_mode: what Command R7B is told to refuse: see `command_a_data`.
        reasoning: whether Command R7B and Command A are to think before they answer: see `command_a_data`.
        family: the kind of prompt that the model reads.

    Raises:
        ArgumentError: an argument is not of its form, Command-R is given both documents and tools or a switch that only
            later models have, or a prompt of one step has nothing to show but calls and results.
        UnsupportedError: the model reads a kind of prompt that cannot be written.
    """
    if citation_mode not in get_args(CitationMode):
        raise ArgumentError(f"citation_mode must be 'accurate', 'fast' or 'off', not {citation_mode!r}")
    if multi_step is not None:
        flag("multi_step", multi_step)
    checked = normalize(messages)
    known = None if documents is None else normalize_documents(documents)
    offered = None if tools is None else normalize_tools(tools)
    if family != "command-r":
        return _request_of_later_models(checked, known, offered, citation_mode, safety_mode, reasoning, family)
    for name, is_set in (
        ("citation_mode 'off'", citation_mode == "off"),
        ("safety_mode", safety_mode is not None),
        ("reasoning", reasoning is not None),
    ):
        if is_set:
            raise ArgumentError(f"{name} is for Command R7B and Command A: this model's prompt has no such switch")
    if known is not None and offered is not None:
        raise ArgumentError("documents and tools cannot be given together: each has a prompt of its own")
    if multi_step and known is not None:
        raise ArgumentError("documents cannot be given for multi_step: the results of its tools are its documents")
    if multi_step is None:
        multi_step = known is None and any(message["role"] == "tool" for message in checked)
    if multi_step:
        data = multi_step_data(checked, offered or [])
        return Request("multi_step", "multi_step", checked, known, offered, citation_mode, data)
    return _request_of_one_step(checked, known, offered, citation_mode)


def _request_of_later_models(
    messages: list[Message],
    documents: list[CheckedDocument] | None,
    tools: list[Tool] | None,
    citation_mode: CitationMode,
    safety_mode: SafetyMode | None,
    reasoning: bool | None,
    family: Family,
) -> Request:
    """For Command R7B and Command A."""
    has_calls = any("tool_calls" in message for message in messages)
    has_switches = safety_mode is not None or reasoning is not None
    template = family if documents or tools or has_calls or has_switches else DEFAULT
    if template == "cmd5":
        raise UnsupportedError(
            "the model's chat template is of the kind cmd5; tools and documents are known only up to cmd4"
        )
    data = (
        _plain_data(words_of(messages), None, None)
        if template == DEFAULT
        else command_a_data(
            messages,
            documents or [],
            tools or [],
            citation_mode=citation_mode,
            safety_mode=safety_mode,
            reasoning=reasoning,
        )
    )
    reply_format: ReplyFormat = "cmd3" if family == "cmd3" else "cmd4"
    return Request(template, reply_format, messages, documents, tools, citation_mode, data, safety_mode, reasoning)


def _request_of_one_step(
    messages: list[Message],
    documents: list[CheckedDocument] | None,
    tools: list[Tool] | None,
    citation_mode: CitationMode,
) -> Request:
    words = words_of(messages)
    if not words:
        raise ArgumentError(
            "messages hold nothing but calls of tools and their results; a user's message must be there"
        )
    if documents is not None or messages[-1]["role"] == "tool":
        template, tools = "rag", None
        data = _plain_data(words, _shown(messages, documents), None)
    else:
        template = DEFAULT if tools is None else "tool_use"
        data = _plain_data(words, None, tools)
    return Request(template, _FORMATS[template], messages, documents, tools, citation_mode, data)


def _results(messages: list[Message]) -> Iterator[tuple[int, CheckedDocument]]:
    """Each document that tools gave, with the number of its call in the conversation."""
    numbers: dict[str, int] = {}
    n_calls = 0
    for message in messages:
        for call in message.get("tool_calls", ()):
            numbers[call["id"]] = n_calls
            n_calls += 1
        if message["role"] == "tool":
            for result in _results_in(message):
                yield numbers[message["tool_call_id"]], result


def _results_in(message: Message) -> list[CheckedDocument]:
    """The documents of a tool's message."""
    found = message.get("documents")
    ids = [f"{message['tool_call_id']}:0"] if found is None else [result["id"] for result in found]
    return [CheckedDocument(name, data) for name, data in zip(ids, result_documents(message), strict=True)]


def _shown(messages: list[Message], documents: list[CheckedDocument] | None) -> list[CheckedDocument]:
    """What the template rag shows: documents, and the results since the user's last message that end a conversation."""
    shown = list(documents or [])
    if messages[-1]["role"] == "tool":
        last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
        shown += [result for message in messages[last:] if message["role"] == "tool" for result in _results_in(message)]
    return shown


def _plain_data(
    messages: list[dict[str, str]], documents: list[CheckedDocument] | None, tools: list[Tool] | None
) -> dict[str, Any]:
    """The variables of a chat template as the published ones use them."""
    return {
        "messages": messages,
        "documents": None if documents is None else [document.texts for document in documents],
        "tools": None
        if tools is None
        else [{key: value for key, value in tool.items() if key != "parameters"} for tool in tools],
    }
