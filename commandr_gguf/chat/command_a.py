"""The prompts of Command R7B and Command A, which `cohere-melody`, Cohere's own renderer, writes.

A file's chat template says which of two forms its model reads. Both have a plan within `<|START_THINKING|>`, calls of
tools within `<|START_ACTION|>` and results within `<|START_TOOL_RESULT|>` marks. They differ in the reply:

    cmd3    <|START_RESPONSE|> around replies, a long system preamble       Command R7B, Command A
    cmd4    <|START_TEXT|> around every text, a short one                   Command A Reasoning, Vision, Translate

Where the file's template and melody's differ, each is used for what it is exact in. A conversation without tools and
documents is rendered with the file's template, as transformers does it. With tools or documents melody renders: for
Command R7B that is byte for byte what the published template gives with `enable_citations`, where that template can say
it at all. It knows one result of each call, and numbers calls and their results differently when there are documents.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cohere_melody

from commandr_gguf.chat.documents import CheckedDocument
from commandr_gguf.chat.json_schema import Tool, to_json_schema
from commandr_gguf.chat.messages import Message
from commandr_gguf.errors import ArgumentError, flag

Family = Literal["command-r", "cmd3", "cmd4", "cmd5"]
"""What kind of prompt a model reads. cmd5, the successor of cmd4, is recognized in order to be refused."""

SafetyMode = Literal["contextual", "strict", "none"]
"""What the preamble of cmd3 forbids: what may lead to harm, also violence, hate, misinformation, sex and profanity, or
nothing."""

# In the order in which they are looked for: a template of the later kinds has some of the earlier marks as well.
_SIGNS: tuple[tuple[str, Family], ...] = (
    ("<cofl:tool_call", "cmd5"),
    ("<|START_TEXT|>", "cmd4"),
    ("<|START_RESPONSE|>", "cmd3"),
)
_REPLY = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
_CITATION_MODES = {"accurate", "fast", "off"}
_NO_THOUGHTS = "<|START_THINKING|><|END_THINKING|>"


@dataclass(frozen=True)
class _Switches:
    """No mapping, since these are no texts of others, as the rest of the data of a prompt."""

    citations: bool
    safety_mode: SafetyMode | None
    reasoning: bool | None


def family_of(templates: Iterable[str]) -> Family:
    """What kind of prompt a model reads whose file has these chat templates."""
    text = "\n".join(templates)
    return next((family for sign, family in _SIGNS if sign in text), "command-r")


def command_a_data(
    messages: Sequence[Message],
    documents: Sequence[CheckedDocument],
    tools: Sequence[Tool],
    *,
    citation_mode: Literal["accurate", "fast", "off"] = "accurate",
    safety_mode: SafetyMode | None = None,
    reasoning: bool | None = None,
) -> dict[str, Any]:
    """What `render_command_a` makes a prompt of, in the structure that melody takes. Every string is untrusted.

    The arguments of calls are still mappings: melody takes them as JSON text, which `render_command_a` makes of them.

    Args:
        messages: checked.
        documents: checked.
        tools: checked.
        citation_mode: "off" does not ask for citations; the others are one.
        safety_mode: of cmd3; None is its default, contextual.
        reasoning: whether the model is to think before it writes; None leaves that to it. cmd3 is told so in words. In
            a prompt of cmd4 its thoughts are closed before they begin, or not: True is no different from None there.

    Raises:
        ArgumentError: a switch has no such position.
    """
    if citation_mode not in _CITATION_MODES:
        raise ArgumentError(f"citation_mode must be 'accurate', 'fast' or 'off', not {citation_mode!r}")
    if safety_mode is not None and safety_mode not in get_args(SafetyMode):
        raise ArgumentError(f"safety_mode must be 'contextual', 'strict' or 'none', not {safety_mode!r}")
    if reasoning is not None:
        flag("reasoning", reasoning)
    return {
        "switches": _Switches(citation_mode != "off", safety_mode, reasoning),
        "messages": melody_messages(messages),
        "documents": [document.data for document in documents],
        "available_tools": [
            {"name": tool["name"], "description": tool["description"], "parameters": to_json_schema(tool)}
            for tool in tools
        ],
    }


def melody_messages(messages: Iterable[Message], *, ids: bool = False) -> list[dict[str, Any]]:
    """Checked messages as melody takes them; calls are numbered from 0 through the conversation.

    Args:
        messages: checked.
        ids: put the ids of results into their documents, from where melody's parser reads them; the model would read
            them as well.
    """
    numbers: dict[str, str] = {}
    count = 0
    result: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            call = numbers[message["tool_call_id"]]
            result.append({"role": "tool", "tool_call_id": call, "content": _results(message, ids=ids)})
        elif "tool_calls" in message:
            calls = []
            for call_ in message["tool_calls"]:
                numbers[call_["id"]] = str(count)
                function = call_["function"]
                calls.append({"id": str(count), "name": function["name"], "parameters": function["arguments"]})
                count += 1
            plan = "\n".join(filter(None, [message.get("tool_plan", ""), message["content"]]))
            thought = [{"type": "thinking", "thinking": plan}] if plan else []
            result.append({"role": "chatbot", "content": thought, "tool_calls": calls})
        else:
            role = "chatbot" if message["role"] == "assistant" else message["role"]
            result.append({"role": role, "content": [{"type": "text", "text": message["content"]}]})
    return result


def render_command_a(
    data: Mapping[str, Any], family: Family, *, add_generation_prompt: bool = True, bos_token: str = ""
) -> str:
    """The prompt that `command_a_data` has the texts of.

    Raises:
        ArgumentError: melody does not take the texts, and the sentence is melody's own; or a safety mode is set, which
            cmd4 has not.
    """
    messages = [
        message | {"tool_calls": [call | {"parameters": _json(call["parameters"])} for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in data["messages"]
    ]
    config = {**data, "messages": messages, **_settings(data["switches"], family)}
    del config["switches"]
    first = messages[0]
    if family == "cmd3" and first["role"] == "system":
        # The published template shows the first system message as the developer's preamble; melody needs to be told.
        config |= {"messages": messages[1:], "dev_instruction": first["content"][0]["text"]}
    try:
        text = (cohere_melody.render_cmd3 if family == "cmd3" else cohere_melody.render_cmd4)(config)
    except ValueError as error:
        sentence = str(error).partition("\n")[0]
        raise ArgumentError(f"the prompt of kind {family} cannot be rendered: {sentence}") from error
    text = bos_token + text.removeprefix("<BOS_TOKEN>")
    if not add_generation_prompt:
        return text.removesuffix(_REPLY)
    return text + _NO_THOUGHTS if family == "cmd4" and data["switches"].reasoning is False else text


def _settings(switches: _Switches, family: Family) -> dict[str, str]:
    """The switches in melody's words, but for reasoning in cmd4, of which it knows nothing."""
    if family == "cmd4":
        if switches.safety_mode is not None:
            raise ArgumentError("safety_mode cannot be set: the prompt of kind cmd4 has none")
        return {} if switches.citations else {"grounding": "disabled"}
    settings: dict[str, str] = {} if switches.citations else {"citation_quality": "off"}
    if switches.safety_mode is not None:
        settings["safety_mode"] = switches.safety_mode
    if switches.reasoning is not None:
        settings["reasoning_type"] = "enabled" if switches.reasoning else "disabled"
    return settings


def _results(message: Message, *, ids: bool) -> list[dict[str, Any]]:
    if "documents" not in message:
        return [{"type": "text", "text": message["content"]}]
    return [
        {"type": "document", "document": ({"id": result["id"]} if ids else {}) | result["data"]}
        for result in message["documents"]
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
