"""LangChain's clients against a running server: python langchain_worker.py URL, in the environment of the clients.

Prints what they read, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from langchain_cohere import ChatCohere
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

HELLO = "Hello, who are you?"


class Person(BaseModel):
    """A person."""

    age: int


def book_table(people: int, name: str) -> str:
    """Books a table.

    Args:
        people: How many people come.
        name: The name of a person.
    """
    return f"{people} {name}"


def openai_answers(url: str, question: str, document: str, when: str) -> dict[str, Any]:
    address: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "model": "any"}
    chat = ChatOpenAI(**address, temperature=0)
    embeddings = OpenAIEmbeddings(**address, check_embedding_ctx_length=False)
    plain = chat.invoke(HELLO)
    grounded = ChatOpenAI(**address, temperature=0, extra_body={"documents": [document]}).invoke(when)
    return {
        "text": plain.content,
        "tokens": plain.usage_metadata["total_tokens"],
        "streamed": "".join(str(chunk.content) for chunk in chat.stream(HELLO)),
        "calls": chat.bind_tools([tool(book_table)]).invoke(question).tool_calls,
        "person": chat.with_structured_output(Person).invoke(HELLO).age,
        "called_person": chat.with_structured_output(Person, method="function_calling").invoke(HELLO).age,
        "grounded": grounded.content,
        "by_responses": ChatOpenAI(**address, temperature=0, use_responses_api=True).invoke(HELLO).text,
        "completed": OpenAI(**address, temperature=0, max_tokens=8).invoke("The Velmora Bridge was opened in"),
        "dimensions": [len(row) for row in embeddings.embed_documents(["a", "b"])],
    }


def cohere_answers(url: str, question: str, document: str, when: str) -> dict[str, Any]:
    chat = ChatCohere(base_url=url, cohere_api_key="none", model="command-r", temperature=0)
    grounded = chat.invoke([HumanMessage(when)], documents=[{"text": document}])
    return {
        "text": chat.invoke(HELLO).content,
        "streamed": "".join(str(chunk.content) for chunk in chat.stream(HELLO)),
        "calls": chat.bind_tools([tool(book_table)]).invoke(question).tool_calls,
        "grounded": grounded.content,
        "citations": len(grounded.additional_kwargs.get("citations") or []),
    }


def main() -> None:
    url, *asked = sys.argv[1:]
    print(json.dumps({"openai": openai_answers(url, *asked), "cohere": cohere_answers(url, *asked)}))


if __name__ == "__main__":
    main()
