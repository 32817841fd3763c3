"""Multi-step tool use as the first Command-R models were trained for it: plan, act, read results, reflect, answer.

    # Safety Preamble ... # System Preamble ... # User Preamble ... ## Available Tools ...     a system turn
    the conversation, turn by turn
    Carefully perform the following instructions ...                                           a system turn
    Plan: ... / Action: ```json [...] ```                                                      the model's turn
    <results> / Document: 0 / Title: ... / </results>                                          a system turn
    Reflection: ... / Action: ...                                                              and so on, until
    Relevant Documents: ... / Cited Documents: ... / Answer: ... / Grounded answer: ...

The files of these models have no template for it. The form is what they read in their training, as Cohere's own
integration publishes it: langchain-cohere 0.6.0, langchain_cohere/react_multi_hop/prompt.py; the line breaks around the
model's turns with actions are part of it. Two things are ours: the numbers of documents go on across the whole
conversation, not only across the steps of its last turn, so that each document keeps its number; and the sentence with
the current date is there only when a date is given, for a prompt that changes with every second is in no cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from commandr_gguf.chat.actions import NO_TOOL
from commandr_gguf.chat.instructions import BASIC_RULES, INSTRUCTION, SAFETY_RULES, STYLE_GUIDE, TASK_AND_CONTEXT
from commandr_gguf.chat.json_schema import Parameter, Tool
from commandr_gguf.chat.messages import Message
from commandr_gguf.chat.rounds import turns_of

DIRECTLY_ANSWER = Tool(
    name="directly_answer",
    description="Calls a standard (un-augmented) AI chatbot to generate a response given the conversation history",
    parameter_definitions={},
)
_ROLES = {"user": "USER", "assistant": "CHATBOT", "calls": "CHATBOT", "system": "SYSTEM", "results": "SYSTEM"}
_REPLY = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"


def multi_step_data(messages: Sequence[Message], tools: Sequence[Tool], date: str | None = None) -> dict[str, Any]:
    """The texts of a multi-step prompt: preamble, tools, and turns with their roles. Every string is untrusted.

    Args:
        messages: checked; the first, when it is the system's, takes the place of the default task and style guide.
        tools: checked; `directly_answer` is put before them when it is not there.
        date: the current date for the default task, such as "Saturday, March 30, 2024 13:20:40".
    """
    if messages[0]["role"] == "system":
        preamble, messages = messages[0]["content"], messages[1:]
    else:
        today = "" if date is None else f" The current date is {date}"
        preamble = f"## Task And Context\n{TASK_AND_CONTEXT}{today}\n\n## Style Guide\n{STYLE_GUIDE}"
    if not any(tool["name"] in NO_TOOL for tool in tools):
        tools = [DIRECTLY_ANSWER, *tools]
    return {
        "preamble": preamble,
        "tools": [_python(tool) for tool in tools],
        "turns": [dict(turn) for turn in turns_of(messages)],
    }


def render_multi_step(data: Mapping[str, Any], *, add_generation_prompt: bool = True, bos_token: str = "") -> str:
    """The prompt that `multi_step_data` has the texts of. The instruction stands behind the last user's turn."""
    system = (
        f"# Safety Preamble\n{SAFETY_RULES}\n\n# System Preamble\n## Basic Rules\n{BASIC_RULES}\n\n"
        f"# User Preamble\n{data['preamble']}\n\n"
        "## Available Tools\nHere is a list of tools that you have available to you:\n\n" + "\n\n".join(data["tools"])
    )
    turns = data["turns"]
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    texts = [_turn(turn["role"], turn["content"]) for turn in turns]
    texts.insert(last + 1, _turn("system", INSTRUCTION))
    return bos_token + _turn("system", system) + "".join(texts) + (_REPLY if add_generation_prompt else "")


def _turn(role: str, content: str) -> str:
    before, behind = ("\n", "\n") if role == "calls" else ("", "")
    return f"<|START_OF_TURN_TOKEN|><|{_ROLES[role]}_TOKEN|>{before}{content}<|END_OF_TURN_TOKEN|>{behind}"


def _python(tool: Tool) -> str:
    definitions = tool["parameter_definitions"]
    signature = ", ".join(f"{name}: {_type(definition)}" for name, definition in definitions.items())
    lines = [f"{name} ({_type(definition)}): {definition['description']}" for name, definition in definitions.items()]
    arguments = "\n\n    Args:\n        " + "\n        ".join(lines) if lines else ""
    head = f"```python\ndef {tool['name']}({signature}) -> List[Dict]:\n"
    return f'{head}    """{tool["description"]}{arguments}\n    """\n    pass\n```'


def _type(parameter: Parameter) -> str:
    return parameter["type"] if parameter["required"] else f"Optional[{parameter['type']}]"
