"""POST /page/documents: a file's text, cut into the passages that are cited."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import PurePath
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse

from commandr_gguf.errors import ArgumentError
from commandr_gguf.server.errors import BodyTooLargeError, TimeUpError, UnreadableError
from commandr_gguf.server.schema import read_bytes
from commandr_gguf.server.state import State, run

MAX_CHARACTERS = 4_000_000
"""Of a file's text: more than the longest context holds."""
SECONDS = 60.0
"""That reading a file may take."""
READER = "commandr_gguf.server.reader"
"""The module that is run to read a file."""


async def read_file(request: Request, state: State) -> JSONResponse:
    """The passages of a file: its bytes are the body, its name is the query's `name`.

    The answer is `{"name": ..., "passages": [{"title": ..., "text": ..., "n_tokens": ...}], "n_tokens": ...}`; together
    the passages hold all of the file's text but the white space between them.

    Raises:
        ArgumentError: there is no name.
        BodyTooLargeError: the file is larger than a body may be, or its text longer than MAX_CHARACTERS.
        UnreadableError: the file is empty, binary, damaged or encrypted, or it has no text.
        TimeUpError: reading took too long.
    """
    given = "".join(filter(str.isprintable, request.query_params.get("name", "")))
    name = PurePath(given.replace("\\", "/")).name
    if not name:
        raise ArgumentError("the query needs the file's name, as in ?name=report.pdf")
    data = await read_bytes(request, state.settings.max_body_bytes)
    async with state.readers:
        passages = await _read(name, data)
    n_characters = sum(len(passage["text"]) for passage in passages)
    if n_characters > MAX_CHARACTERS:
        raise BodyTooLargeError(f"{name}: its text has {n_characters} characters, more than the {MAX_CHARACTERS} taken")
    counts = await run(lambda: [len(state.model.tokenize(passage["text"])) for passage in passages])
    counted = [{**passage, "n_tokens": n_tokens} for passage, n_tokens in zip(passages, counts, strict=True)]
    return JSONResponse({"name": name, "passages": counted, "n_tokens": sum(counts)})


async def _read(name: str, data: bytes) -> list[dict[str, Any]]:
    """In a process of its own: a file that is made to take long, or all memory, must not take the server's."""
    command = [sys.executable, "-m", READER, name]
    try:
        with anyio.fail_after(SECONDS):
            done = await anyio.run_process(command, input=data, check=False, stderr=subprocess.DEVNULL)
    except TimeoutError:
        raise TimeUpError(f"{name}: reading it took longer than {SECONDS:.0f} seconds") from None
    answer = json.loads(done.stdout) if done.returncode == 0 else {"message": f"{name}: reading it failed"}
    if isinstance(answer, list):
        return answer
    raise UnreadableError(answer["message"])
