"""Requests for a chat, whatever their interface, as arguments of `CommandR.chat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commandr_gguf.chat.filter import reply_parser
from commandr_gguf.chat.grammars import json_schema_grammar
from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import ArgumentError
from commandr_gguf.reply_stream import ReplyStream, Stage
from commandr_gguf.server.schema import brief, choice, field, inside
from commandr_gguf.server.state import State

CITATION_MODES = {"ENABLED": "accurate", "ACCURATE": "accurate", "FAST": "fast", "OFF": "off", "DISABLED": "off"}
"""Words of requests -> modes of `CommandR.chat`."""
MAX_STOPS = 16
_SAFETY: dict[str, str | None] = {"CONTEXTUAL": "contextual", "STRICT": "strict", "OFF": "none", "NONE": "none"}


@dataclass(frozen=True)
class Asked:
    """A checked request."""

    messages: list[dict[str, Any]]
    options: dict[str, Any]
    """Further arguments of `CommandR.chat`."""
    stream: bool
    document_ids: frozenset[str]
    """Of the documents that were given; what else is cited are results of tools."""
    cites: bool
    """Whether citations are wanted."""
    thinks_aloud: bool
    """Whether what the model says to itself are thoughts; else it is the plan of its calls."""
    prompt: str | None = None
    """The whole prompt, control tokens included, where the request has written it itself; there are no messages then
    but to tell of, and the options are those of `CommandR.generate`."""

    def begin(self, model: CommandR) -> ReplyStream:
        """The reply, of which nothing is computed yet."""
        if self.prompt is None:
            return model.chat(self.messages, stream=True, **self.options)
        options = {**self.options}
        stop = options.pop("stop")  # the reply tells that it was stopped, a generation does not
        tokens = model.tokenize(self.prompt, add_special=True, parse_special=True)
        return ReplyStream(Stage(model.generate(tokens, stream=True, **options), reply_parser("chat")), stop=stop)


def make_asked(
    messages: list[dict[str, Any]],
    documents: list[dict[str, Any]] | None,
    mode: str,
    options: Mapping[str, Any],
    body: Mapping[str, Any],
    state: State,
) -> Asked:
    """A request from its parts, with the switches that this model has.

    Args:
        messages: of the conversation.
        documents: as `named_documents` gives them.
        mode: of citations.
        options: further arguments of `CommandR.chat`.
        body: in which `safety_mode` and `stream` are looked up.
        state: of the server.

    Raises:
        ArgumentError: there are too many documents, a switch that the model has not, or a form of the answer where
            the model's own cannot hold it.
    """
    state.check_documents(documents)
    is_first = state.model.takes_steps_when_asked  # the first Command-R has prompts of its own for documents and steps
    safety = choice(body, "safety_mode", _SAFETY, None)
    if is_first and safety == "strict":
        raise ArgumentError("safety_mode 'STRICT' is for Command R7B and later: this model's prompt has no such switch")
    results = any(message.get("role") == "tool" for message in messages)
    if is_first and "grammar" in options and (documents or results):
        raise ArgumentError(
            "response_format cannot be given together with documents or results of tools: this model's answers from "
            "them have a form of their own"
        )
    switches = given(safety_mode=None if is_first else safety, documents=documents)
    return Asked(
        messages,
        {**options, **switches, "citation_mode": "fast" if is_first and mode == "off" else mode},
        stream=bool(field(body, "stream", bool, False)),
        document_ids=frozenset(document["id"] for document in documents or []),
        cites=mode != "off",
        thinks_aloud=not is_first and not options.get("tools"),
    )


def citation_mode(body: Mapping[str, Any]) -> str:
    """The mode in `citation_options`. Raises ArgumentError where there is no such mode."""
    with inside("citation_options"):
        return choice(field(body, "citation_options", dict, {}) or {}, "mode", CITATION_MODES, "accurate")


def given(**options: Any) -> dict[str, Any]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def object_grammar(schema: Mapping[str, Any] | None) -> str:
    """What a reply in JSON must keep to; without a schema it is any object."""
    return json_schema_grammar({"type": "object"} if schema is None else schema)


def named_documents(documents: Sequence[Any] | None, name: str) -> list[dict[str, Any]] | None:
    """Documents as `{"id", "data"}`: ids are not shown to the model. None for none at all.

    Args:
        documents: strings, mappings, or mappings with the document under `data`.
        name: of a document without an id, with a place for its number.
    """
    if not documents:
        return None
    named = []
    for number, one in enumerate(documents):
        data: Any = one
        document_id: Any = None
        if isinstance(one, Mapping):
            document_id = one.get("id")
            hidden = {"id", "_excludes", *(one.get("_excludes") or ())}
            data = one["data"] if "data" in one else {key: value for key, value in one.items() if key not in hidden}
        named.append({"id": name.format(number) if document_id is None else str(document_id), "data": data})
    return named


def message_in(where: str, message: object) -> dict[str, Any]:
    """A message of a list; what a tool gave as parts of text becomes one text. Raises ArgumentError for no object."""
    if not isinstance(message, Mapping):
        raise ArgumentError(f"{where} must be an object, not {brief(message)}")
    content = message.get("content")
    if message.get("role") == "tool" and isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        if texts and len(texts) == len(content):
            return {**message, "content": "".join(map(str, texts))}
    return dict(message)
