"""What the handlers of requests share."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from commandr_gguf.command_r import CommandR
from commandr_gguf.errors import ArgumentError, integer
from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.server.engine import Engine
from commandr_gguf.server.errors import ClientGoneError
from commandr_gguf.server.schema import field, read_body
from commandr_gguf.server.settings import Settings
from commandr_gguf.server.stream import Receive, Ticket, Tickets, watching
from commandr_gguf.stream import GenerationStream

_T = TypeVar("_T")
MOST_READERS = 2
"""Files that are read at the same time, each by a process of its own; the others wait."""


class State:
    """The engine, its model and the settings."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.started = time.time()
        self.readers = anyio.CapacityLimiter(MOST_READERS)
        """Processes that read documents."""

    @property
    def model(self) -> CommandR:
        """The model that the engine computes with."""
        return self.engine.model

    @property
    def model_name(self) -> str:
        """The model's name in answers."""
        return self.settings.model_alias or Path(self.model.model.path).stem

    def sampling(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `CommandR.chat` and `generate`: what a request gives, and else the server's defaults."""
        defaults = dataclasses.asdict(self.settings.sampling)
        return {**defaults, **{name: value for name, value in given.items() if value is not None}}

    def max_tokens(self, body: Mapping[str, Any], *names: str) -> int | None:
        """Most tokens of a reply: the first of these fields that is given, at most the server's own limit.

        Raises:
            ArgumentError: one is no integer, or negative.
        """
        asked = [integer(name, n, 0) for name in names for n in [field(body, name, int)] if n is not None]
        limits = [*asked[:1], *([] if self.settings.max_tokens is None else [self.settings.max_tokens])]
        return min(limits, default=None)

    def check_documents(self, documents: list[Any] | None) -> None:
        """Raises ArgumentError for more documents than the server takes."""
        if documents is not None and len(documents) > self.settings.max_documents:
            raise ArgumentError(
                f"{len(documents)} documents are more than the {self.settings.max_documents} that this server takes"
            )

    async def body(self, request: Request) -> dict[str, Any]:
        """The JSON object in a request's body, which the log is told where that is wanted.

        Raises:
            BodyTooLargeError, ArgumentError: see `read_body`.
        """
        body = await read_body(request, self.settings.max_body_bytes)
        if self.settings.log_prompts:
            request.state.log["body"] = body
        return body

    async def ask(self, begin: Callable[[], ReplyStream | GenerationStream]) -> tuple[Any, Ticket]:
        """Submit a request.

        Args:
            begin: calls `CommandR.chat` or `CommandR.generate` with `stream=True`; it runs in a thread of its own,
                since the prompt is rendered and tokenized there.

        Returns:
            What `begin` returned, to be looked at only when the ticket has ended; and the ticket.
        """
        stream = await run(begin)
        return stream, Ticket(self.engine, stream, timeout=self.settings.timeout)

    async def ask_all(
        self, begins: Iterable[Callable[[], ReplyStream | GenerationStream]]
    ) -> tuple[list[Any], Tickets]:
        """Submit requests that belong together, see `ask`. When one is refused, the others are cancelled."""
        streams, tickets = [], Tickets()
        try:
            for begin in begins:
                stream, ticket = await self.ask(begin)
                streams.append(stream)
                tickets.add(ticket)
        except BaseException:
            tickets.cancel()
            raise
        return streams, tickets


async def run_parts(parts: Iterable[_T], receive: Receive) -> list[_T]:
    """What an iterator gives that takes long, from another thread, which stops when the client goes away.

    Args:
        parts: runs in that thread.
        receive: of the request.

    Raises:
        ClientGoneError: the client went away.
    """
    gone = threading.Event()

    def work() -> list[_T]:
        found = []
        for part in parts:
            if gone.is_set():
                raise ClientGoneError("the client went away")
            found.append(part)
        return found

    async with watching(receive, gone.set):
        return await run(work)


async def run(function: Callable[[], _T]) -> _T:
    """What a function returns that takes long, from another thread."""
    return await anyio.to_thread.run_sync(function)
