"""The events of /v1/responses in their order, and the response that they build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from commandr_gguf.chat.actions import ToolCall
from commandr_gguf.chat.events import Event, Plan, Text
from commandr_gguf.chat.visible import Citation
from commandr_gguf.sampling import Logprobs
from commandr_gguf.server.asked import Asked
from commandr_gguf.server.openai.forms import new_id
from commandr_gguf.server.openai.logprobs import token_logprobs
from commandr_gguf.server.openai.tools import new_call
from commandr_gguf.server.replies import citation_in
from commandr_gguf.tokenizer import Tokenizer

_Events = Iterator[dict[str, Any]]


class ResponseWriter:
    """Makes events of what a model writes. Each has the type that is its name in a stream.

    Args:
        head: the response but for its output, status and usage.
        asked: what was asked for.
        tokenizer: of the model.
    """

    def __init__(self, head: Mapping[str, Any], asked: Asked, tokenizer: Tokenizer) -> None:
        self._head = head
        self._asked = asked
        self._tokenizer = tokenizer
        self._items: list[dict[str, Any]] = []
        self._is_open = False
        """Whether the last item is being written."""
        self._n_citations = 0
        self._logprobs: list[dict[str, Any]] = []
        """Of tokens whose text is still to come."""
        self._number = 0

    def response(self, status: str, **rest: Any) -> dict[str, Any]:
        """The whole response so far."""
        empty = {"error": None, "incomplete_details": None, "usage": None}
        return {**self._head, **empty, "status": status, "output": list(self._items), **rest}

    def begin(self) -> _Events:
        """The first events."""
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", response=self.response("in_progress"))

    def write(self, events: Sequence[Event], logprobs: Sequence[Logprobs]) -> _Events:
        """What one step of the model gave."""
        self._logprobs += token_logprobs(logprobs, self._tokenizer)
        for event in events:
            if isinstance(event, Text):
                yield from self._text("message", event.text)
            elif isinstance(event, Plan):
                yield from self._text("reasoning", event.text)
            elif isinstance(event, Citation) and self._asked.cites:
                yield from self._cite(event)
            elif isinstance(event, ToolCall):
                yield from self._call(event)

    def close(self, status: str = "completed") -> _Events:
        """The last events of the item that is being written."""
        if not self._is_open:
            return
        self._is_open = False
        item = self._items[-1]
        part = item["content"][0]
        item["status"] = status
        if part["type"] == "output_text":
            part["logprobs"] += self._logprobs
            self._logprobs = []
            yield self._part_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        else:
            yield self._part_event("response.reasoning_text.done", text=part["text"])
        yield self._part_event("response.content_part.done", part=part)
        yield self._item_event("response.output_item.done", item=item)

    def end(self, response: Mapping[str, Any]) -> dict[str, Any]:
        """The very last event, named by the status of the response."""
        return self._event(f"response.{response['status']}", response=response)

    def _text(self, kind: str, text: str) -> _Events:
        if not self._is_open or self._items[-1]["type"] != kind:
            yield from self.close()
            yield from self._open(kind)
        part = self._items[-1]["content"][0]
        part["text"] += text
        if kind == "reasoning":
            yield self._part_event("response.reasoning_text.delta", delta=text)
            return
        logprobs, self._logprobs = self._logprobs, []
        part["logprobs"] += logprobs
        yield self._part_event("response.output_text.delta", delta=text, logprobs=logprobs)

    def _open(self, kind: str) -> _Events:
        self._is_open = True
        part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        item: dict[str, Any] = {"type": "reasoning", "id": new_id("rs_"), "summary": []}
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item = {"type": "message", "id": new_id("msg_"), "role": "assistant"}
        self._items.append({**item, "status": "in_progress", "content": [part]})
        yield self._item_event("response.output_item.added", item={**self._items[-1], "content": []})
        yield self._part_event("response.content_part.added", part=part)

    def _cite(self, citation: Citation) -> _Events:
        """A citation is a field of our own: the annotations of this interface know files and addresses only."""
        cited = {"index": self._n_citations, **citation_in(citation, self._asked.document_ids)}
        self._n_citations += 1
        # The text it stands in may be closed by now: it is the last that was begun.
        index = max(i for i, item in enumerate(self._items) if item["type"] == "message")
        item = self._items[index]
        item["content"][0].setdefault("citations", []).append(cited)
        rest = {"item_id": item["id"], "output_index": index, "content_index": 0}
        yield self._event("response.output_text.delta", delta="", logprobs=[], citations=[cited], **rest)

    def _call(self, call: ToolCall) -> _Events:
        yield from self.close()
        made = new_call(call)
        function = made["function"]
        item = {"type": "function_call", "id": new_id("fc_"), "call_id": made["id"], "status": "completed", **function}
        self._items.append(item)
        started = {**item, "status": "in_progress", "arguments": ""}
        yield self._item_event("response.output_item.added", item=started)
        arguments, item_id = function["arguments"], item["id"]
        yield self._item_event("response.function_call_arguments.delta", item_id=item_id, delta=arguments)
        yield self._item_event(
            "response.function_call_arguments.done", item_id=item_id, name=call.name, arguments=arguments
        )
        yield self._item_event("response.output_item.done", item=item)

    def _part_event(self, kind: str, **rest: Any) -> dict[str, Any]:
        return self._item_event(kind, item_id=self._items[-1]["id"], content_index=0, **rest)

    def _item_event(self, kind: str, **rest: Any) -> dict[str, Any]:
        return self._event(kind, output_index=len(self._items) - 1, **rest)

    def _event(self, kind: str, **rest: Any) -> dict[str, Any]:
        number, self._number = self._number, self._number + 1
        return {"type": kind, "sequence_number": number, **rest}
