"""Requests whose prompts are compared, byte by byte, with those of the reference programs."""

from __future__ import annotations

import itertools
from typing import Any

import corpus

SYSTEM = {"role": "system", "content": "## Task and Context\nYou know rivers.\n\n## Style Guide\nBe brief — 短く. "}
TURNS = [
    {"role": "user", "content": "  Hello!\n"},
    {"role": "assistant", "content": " Hi, what can I do? "},
    {"role": "user", "content": "Tell me about the Rhine: {{ x }} {% y %} <b>&amp;</b>\\n"},
]
QUERY = {"description": "What to look for", "type": "str", "required": True}
SEARCH = {
    "name": "internet_search",
    "description": "Returns a list of relevant document snippets for a textual query",
    "parameter_definitions": {"query": QUERY},
}
TOOLS: list[dict[str, Any]] = [
    SEARCH,
    {
        "name": "book",
        "description": 'Books a "table",\nor two — für später.',
        "parameter_definitions": {
            "name": {"description": "The name, such as Núñez", "type": "str", "required": True},
            "people": {"description": "", "type": "int", "required": False},
            "days": {"description": "Days", "type": "List[str]", "required": False},
        },
    },
    {"name": "directly_answer", "description": "Answers by itself", "parameter_definitions": {}},
]
DOCUMENTS: list[dict[str, Any]] = [
    {"title": "Tall penguins", "text": "Emperor penguins are the tallest.\n"},
    {"url": "https://a.example/?b=c&d", "text": "Line one\nLine two: <results> {{ x }}", "id": "not hidden"},
    {"snippet": "ペンギンは南極にいます。", "year": 1912, "weight": 22.5, "tall": True, "note": None},
]
LANGUAGES = [{"text": text, "title": name} for name, text in corpus.LANGUAGES.items()]
SPEAKERS = [
    {"role": role, "content": text}
    for role, text in zip(itertools.cycle(("user", "assistant")), [*corpus.LANGUAGES.values(), "?"], strict=False)
]


def command_r() -> dict[str, dict[str, Any]]:
    """Arguments of `CommandR.prompt` by name, for the three templates of Command-R+."""
    conversations = {
        "one message": TURNS[:1],
        "a system message": [SYSTEM, *TURNS[:1]],
        "several turns": TURNS,
        "all": [SYSTEM, *TURNS],
        "ten languages": SPEAKERS,
    }
    others: dict[str, dict[str, Any]] = {
        "chat": {},
        "chat, unfinished": {"add_generation_prompt": False},
        "one tool": {"tools": TOOLS[:1]},
        "tools": {"tools": TOOLS},
        "one document": {"documents": DOCUMENTS[:1]},
        "documents": {"documents": DOCUMENTS},
        "documents, fast": {"documents": DOCUMENTS, "citation_mode": "fast"},
        "documents in ten languages": {"documents": LANGUAGES},
        "no documents": {"documents": []},
    }
    return {
        f"{what}; {which}": {"messages": messages, **options}
        for (which, messages), (what, options) in itertools.product(conversations.items(), others.items())
    }


def _round(plan: str, name: str, arguments: dict[str, Any], results: Any, *, call: str) -> list[dict[str, Any]]:
    calls = [{"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}]
    return [
        {"role": "assistant", "tool_plan": plan, "tool_calls": calls},
        {"role": "tool", "tool_call_id": call, "content": results},
    ]


ROUNDS = [
    *_round("First I search — zuerst.", "internet_search", {"query": 'ライン川 "Rhine" {x}'}, DOCUMENTS[:2], call="a1"),
    *_round("Then I book.", "book", {"name": "Núñez", "people": 4, "days": ["Mo", "Tu"]}, "done: 42", call="b2"),
]


def multi_step() -> dict[str, dict[str, Any]]:
    """Arguments of `CommandR.prompt` by name, for the multi-step prompt."""
    tools = TOOLS[:1]
    # The reference writes List for a list of whatever.
    definitions = {key: value for key, value in TOOLS[1]["parameter_definitions"].items() if key != "days"}
    both = [*tools, TOOLS[1] | {"parameter_definitions": definitions}]
    return {
        "first step": {"messages": TURNS[:1], "tools": tools},
        "first step of a conversation": {"messages": TURNS, "tools": both},
        "a system message": {"messages": [SYSTEM, *TURNS], "tools": tools},
        "second step": {"messages": [*TURNS, *ROUNDS[:2]], "tools": both},
        "third step": {"messages": [SYSTEM, *TURNS, *ROUNDS], "tools": both},
    }


def command_r7b() -> dict[str, dict[str, Any]]:
    """Arguments of `CommandR.prompt` by name, for the prompts of Command R7B with tools or documents."""
    documents = [{key: value for key, value in document.items() if key != "id"} for document in DOCUMENTS]
    rounds = list(ROUNDS)  # with one result of each call, for the published template shows no more
    rounds[1] = rounds[1] | {"content": documents[0]}
    rounds[3] = rounds[3] | {"content": documents[2]}
    return {
        "tools": {"messages": TURNS, "tools": TOOLS[:1]},
        "tools, a system message": {"messages": [SYSTEM, *TURNS], "tools": TOOLS[:1]},
        "documents": {"messages": TURNS, "documents": documents},
        "documents in ten languages": {"messages": SPEAKERS, "documents": LANGUAGES},
        "tools and documents": {"messages": [SYSTEM, *TURNS], "documents": documents, "tools": TOOLS[:1]},
        "one step": {"messages": [*TURNS, *rounds[:2]], "tools": TOOLS[:1]},
        "two steps": {"messages": [SYSTEM, *TURNS, *rounds], "tools": TOOLS[:1]},
        "unfinished": {"messages": TURNS, "tools": TOOLS[:1], "add_generation_prompt": False},
    }
