"""Let transformers write the prompts of golden/prompts/cases.py: prompts_worker.py TOKENIZER OUT.json

TOKENIZER is the folder of Command-R+'s tokenizer with its three templates. OUT.json receives the prompts by name. With
--command-r7b TEMPLATE.jinja they are those of Command R7B by its published template.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.prompts import cases


def command_r(tokenizer: Any) -> dict[str, str]:
    """The prompts of Command-R+, by the methods that transformers has for them."""
    return {name: _command_r(tokenizer, **request) for name, request in cases.command_r().items()}


def _command_r(
    tokenizer: Any,
    messages: list[dict[str, str]],
    documents: list[dict[str, str]] | None = None,
    tools: list[dict[str, Any]] | None = None,
    *,
    citation_mode: str = "accurate",
    add_generation_prompt: bool = True,
) -> str:
    options = {"tokenize": False, "add_generation_prompt": add_generation_prompt}
    if documents is not None:
        text = tokenizer.apply_grounded_generation_template(messages, documents, citation_mode=citation_mode, **options)
    elif tools is not None:
        text = tokenizer.apply_tool_use_template(messages, tools, **options)
    else:
        text = tokenizer.apply_chat_template(messages, chat_template="default", **options)
    return str(text)


def command_r7b(tokenizer: Any, template: str) -> dict[str, str]:
    """The prompts of Command R7B."""
    result = {}
    for name, request in cases.command_r7b().items():
        tools = [_openai(tool) for tool in request["tools"]] if "tools" in request else []
        text = tokenizer.apply_chat_template(
            [_with_reasoning(message) for message in request["messages"]],
            chat_template=template,
            tools=tools,
            documents=request.get("documents"),
            enable_citations=True,
            enable_thinking=True,  # a switch that llama.cpp's copy adds: without it the reply begins with no thought
            tokenize=False,
        )
        end = "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
        # This template has no add_generation_prompt.
        result[name] = str(text) if request.get("add_generation_prompt", True) else str(text).removesuffix(end)
    return result


def _openai(tool: dict[str, Any]) -> dict[str, Any]:
    names = {"str": "string", "int": "integer"}
    definitions = tool["parameter_definitions"]
    properties = {
        key: {"type": names[value["type"]], "description": value["description"]} for key, value in definitions.items()
    }
    required = [key for key, value in definitions.items() if value["required"]]
    schema = {"type": "object", "properties": properties, "required": required}
    function = {"name": tool["name"], "description": tool["description"], "parameters": schema}
    return {"type": "function", "function": function}


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"reasoning_content": message["tool_plan"]} if "tool_plan" in message else message


def main() -> int:
    parser = argparse.ArgumentParser(description="Let transformers write prompts.")
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--command-r7b", type=Path, metavar="TEMPLATE.jinja")
    arguments = parser.parse_args()

    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.tokenizer)
    if arguments.command_r7b is None:
        prompts = command_r(tokenizer)
    else:
        prompts = command_r7b(tokenizer, arguments.command_r7b.read_text(encoding="utf-8"))
    arguments.out.write_text(
        json.dumps({"transformers": transformers.__version__, "prompts": prompts}, ensure_ascii=False), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
