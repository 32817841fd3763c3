"""Rounds of tool calls and their results: as turns of text in the multi-step prompt, and left out of all others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from commandr_gguf.chat.documents import value_text
from commandr_gguf.chat.messages import Message


class Turn(TypedDict):
    """A turn of a prompt."""

    role: Literal["system", "user", "assistant", "calls", "results"]
    """calls: an assistant's turn with actions; results: a system turn with theirs."""
    content: str


def turns_of(messages: Iterable[Message]) -> list[Turn]:
    """Checked messages as turns. Results in a row are one turn; their numbers go on across the conversation.

    Keys of results are titles, as the multi-step prompt has them: Title, Text, URL.
    """
    turns: list[Turn] = []
    results: list[dict[str, Any]] = []
    number, step = 0, 0
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            if results:
                turns.pop()
            results += result_documents(message)
            turns.append(Turn(role="results", content=_results(results, number)))
            continue
        number += len(results)
        results = []
        if "tool_calls" in message:
            turns.append(Turn(role="calls", content=_actions(message, first=step == 0)))
            step += 1
        else:
            step = 0
            turns.append(Turn(role=role, content=content))  # type: ignore[typeddict-item]  # what is left of ROLES
    return turns


def words_of(messages: Iterable[Message]) -> list[dict[str, str]]:
    """Checked messages without calls of tools and their results, for a prompt of the roles system, user and assistant.

    Turns of one role that only calls and results stood between are joined, since such prompts want them to alternate.
    """
    turns: list[dict[str, str]] = []
    parted = False
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool" or "tool_calls" in message:
            parted = True
            continue
        if parted and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
        parted = False
    return turns


def result_documents(message: Message) -> list[dict[str, Any]]:
    """The documents of a tool's message, in their order; a text is one under "output"."""
    if "documents" in message:
        return [result["data"] for result in message["documents"]]
    return [{"output": message["content"]}]


def _actions(message: Message, *, first: bool) -> str:
    calls = [
        {"tool_name": call["function"]["name"], "parameters": call["function"]["arguments"]}
        for call in message["tool_calls"]
    ]
    action = f"Action: ```json\n{json.dumps(calls, indent=4, ensure_ascii=False)}\n```"
    plan = "\n".join(text.strip() for text in (message.get("tool_plan", ""), message["content"]) if text.strip())
    if plan and not plan.startswith(("Plan:", "Reflection:")):
        plan = f"{'Plan' if first else 'Reflection'}: {plan}"
    return f"{plan}\n{action}" if plan else action


def _results(documents: Sequence[Mapping[str, Any]], first: int) -> str:
    texts = []
    for number, document in enumerate(documents, first):
        fields = [f"{_title(key)}: {value_text(value)}" for key, value in document.items()]
        texts.append("\n".join([f"Document: {number}", *fields]))
    return "<results>\n" + "\n\n".join(texts) + "\n</results>"


def _title(key: str) -> str:
    return "URL" if key.lower() == "url" else key.title()
