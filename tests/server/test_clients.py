"""LangChain's and LlamaIndex's clients of both interfaces, which run in an environment of their own.

Their packages want other versions of `openai` and `cohere` than the ones that the other tests ask with. `make
test-clients` installs them into $COMMANDR_CLIENTS or .venv-clients.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from commandr_gguf import CommandR
from commandr_gguf.demo import showcase
from server.serving import Running

PYTHON = Path(os.environ.get("COMMANDR_CLIENTS", Path(__file__).parents[2] / ".venv-clients")) / "bin" / "python"
WHEN = "When was the Velmora Bridge opened?"
DOCUMENT = "The Velmora Bridge was opened in 1987."
BOOKED = {"people": 14, "name": "Ilse Tarn"}

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="`make test-clients` installs the clients")


def answers(worker: str, *arguments: str) -> Any:
    script = Path(__file__).parent / "clients" / f"{worker}_worker.py"
    done = subprocess.run([PYTHON, script, *arguments], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def hello(demo: CommandR) -> str:
    return demo.chat([{"role": "user", "content": "Hello, who are you?"}], temperature=0).text


def test_langchain(server: Running, demo: CommandR) -> None:
    found = answers("langchain", server.url, showcase.TOOL_QUESTION, DOCUMENT, WHEN)
    for one in found.values():
        assert one["text"] == one["streamed"] == hello(demo)
        assert [(call["name"], call["args"]) for call in one["calls"]] == [("book_table", BOOKED)]
        assert "1987" in one["grounded"]
    assert found["cohere"]["citations"] > 0
    assert found["openai"]["by_responses"] == hello(demo)
    assert found["openai"]["tokens"] > 10
    assert found["openai"]["completed"]
    assert isinstance(found["openai"]["person"], int)
    assert isinstance(found["openai"]["called_person"], int)
    assert found["openai"]["dimensions"] == [demo.model.hparams.n_embd] * 2


def test_llama_index(server: Running, demo: CommandR) -> None:
    for one in answers("llama_index", server.url, showcase.TOOL_QUESTION).values():
        assert one["text"] == one["streamed"] == hello(demo)
        assert [(call["name"], call["args"]) for call in one["calls"]] == [("book_table", BOOKED)]
