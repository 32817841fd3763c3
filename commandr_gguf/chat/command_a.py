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
from typing import Any, Literal

import cohere_melody

from commandr_gguf.chat.documents import CheckedDocument
from commandr_gguf.chat.json_schema import Tool, to_json_schema
from commandr_gguf.chat.messages import Message
from commandr_gguf.errors import ArgumentError

Family = Literal["command-r", "cmd3", "cmd4", "cmd5"]
"""What kind of prompt a model reads. cmd5, the successor of cmd4, is recognized in order to be refused."""

# In the order in which they are looked for: a template of the later kinds has some of the earlier marks as well.
_SIGNS: tuple[tuple[str, Family], ...] = (
    ("<cofl:tool_call", "cmd5"),
    ("<|START_TEXT|>", "cmd4"),
    ("<|START_RESPONSE|>", "cmd3"),
)
_REPLY = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"


def family_of(templates: Iterable[str]) -> Family:
    """What kind of prompt a model reads whose file has these chat templates."""
    text = "\n".join(templates)
    return next((family for sign, family in _SIGNS if sign in text), "command-r")


def command_a_data(
    messages: Sequence[Message], documents: Sequence[CheckedDocument], tools: Sequence[Tool]
) -> dict[str, Any]:
    """The texts of a prompt, in the structure that melody takes. Every string is untrusted.

    The arguments of calls are still mappings: melody takes them as JSON text, which `render_command_a` makes of them.
    """
    return {
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
        ArgumentError: melody does not take the texts; the sentence is melody's own.
    """
    messages = [
        message | {"tool_calls": [call | {"parameters": _json(call["parameters"])} for call in message["tool_calls"]]}
        if "tool_calls" in message
        else message
        for message in data["messages"]
    ]
    config = {**data, "messages": messages}
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
    return text if add_generation_prompt else text.removesuffix(_REPLY)


def _results(message: Message, *, ids: bool) -> list[dict[str, Any]]:
    if "documents" not in message:
        return [{"type": "text", "text": message["content"]}]
    return [
        {"type": "document", "document": ({"id": result["id"]} if ids else {}) | result["data"]}
        for result in message["documents"]
    ]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
