"""LlamaIndex's clients against a running server: python llama_index_worker.py URL, in the environment of the clients.

Prints what they read, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.cohere import Cohere
from llama_index.llms.openai_like import OpenAILike

HELLO = "Hello, who are you?"


def book_table(people: int, name: str) -> str:
    """Books a table."""
    return f"{people} {name}"


def answers(model: Any, question: str) -> dict[str, Any]:
    message = ChatMessage(role="user", content=HELLO)
    called = model.chat_with_tools([FunctionTool.from_defaults(book_table)], user_msg=question)
    calls = model.get_tool_calls_from_response(called, error_on_no_tool_call=False)
    return {
        "text": model.chat([message]).message.content,
        "streamed": "".join(part.delta or "" for part in model.stream_chat([message])),
        "calls": [{"name": call.tool_name, "args": call.tool_kwargs} for call in calls],
    }


def main() -> None:
    url, question = sys.argv[1:]
    likes = OpenAILike(
        api_base=f"{url}/v1",
        api_key="none",
        model="any",
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=4096,
        temperature=0,
    )
    cohere = Cohere(api_key="none", base_url=url, model="command-r", temperature=0)
    print(json.dumps({"openai": answers(likes, question), "cohere": answers(cohere, question)}))


if __name__ == "__main__":
    main()
