"""Let langchain-cohere write the multi-step prompts of golden/prompts/cases.py: multi_step_worker.py OUT.json

It needs langchain-cohere 0.6.0 and its requirements, which nothing else here needs.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.prompts import cases

DATE = dt.datetime(2024, 3, 30, 13, 20, 40)  # noqa: DTZ001  # what now() of that package gives has no zone
_KINDS = {"str": str, "int": int, "List[str]": list[str]}


def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """One prompt."""
    prompt = import_module("langchain_cohere.react_multi_hop.prompt")
    agents, kinds_of = import_module("langchain_core.agents"), import_module("langchain_core.messages")
    kinds = {"user": kinds_of.HumanMessage, "assistant": kinds_of.AIMessage}

    class Now(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return DATE

    class Conversation:
        """What stands for langchain's ChatPromptTemplate: messages that are there already."""

        def invoke(self, _: object) -> Conversation:
            return self

        def to_messages(self) -> list[Any]:
            plain = [message for message in messages if "tool_calls" not in message and message["role"] in kinds]
            return [kinds[message["role"]](content=message["content"]) for message in plain]

    prompt.datetime = Now  # type: ignore[attr-defined]
    steps: list[tuple[Any, Any]] = []
    for i, message in enumerate(messages):
        if "tool_calls" in message:
            text = _step("Reflection" if steps else "Plan", message)
            said = [kinds_of.AIMessage(content=text)]
            action = agents.AgentActionMessageLog(tool="", tool_input={}, log="", message_log=said)
            steps.append((action, messages[i + 1]["content"]))
    values: dict[str, Any] = {"intermediate_steps": steps}
    if messages[0]["role"] == "system":
        values["preamble"] = messages[0]["content"]
    made: Any = prompt.multi_hop_prompt([_tool(tool) for tool in tools], Conversation())
    return str(made(values).invoke({}).text)


def _step(word: str, message: dict[str, Any]) -> str:
    functions = [call["function"] for call in message["tool_calls"]]
    actions = [{"tool_name": function["name"], "parameters": function["arguments"]} for function in functions]
    plan = f"\n{word}: {message['tool_plan']}\nAction: ```json\n"
    return f"{plan}{json.dumps(actions, indent=4, ensure_ascii=False)}\n```"


def _tool(tool: dict[str, Any]) -> Any:
    tools, pydantic = import_module("langchain_core.tools"), import_module("pydantic")
    fields: dict[str, Any] = {}
    for name, definition in tool["parameter_definitions"].items():
        default: dict[str, Any] = {} if definition["required"] else {"default": None}
        fields[name] = (_KINDS[definition["type"]], pydantic.Field(description=definition["description"], **default))
    schema = pydantic.create_model("Arguments", **fields)
    return tools.StructuredTool(name=tool["name"], description=tool["description"], args_schema=schema, func=print)


def main() -> int:
    prompts = {name: render(**request) for name, request in cases.multi_step().items()}
    version = importlib.metadata.version("langchain-cohere")
    Path(sys.argv[1]).write_text(
        json.dumps({"langchain-cohere": version, "prompts": prompts}, ensure_ascii=False), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
