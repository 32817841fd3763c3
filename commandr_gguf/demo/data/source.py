"""A stream of examples of one split, and the prompts that chat templates make of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from commandr_gguf.chat.prompt import ChatTemplate
from commandr_gguf.demo.data.chat import Chat
from commandr_gguf.demo.data.example import Example, Task
from commandr_gguf.demo.data.grounded import Grounded
from commandr_gguf.demo.data.names import Names, Split
from commandr_gguf.demo.data.tools import Tools

_BOS = "<BOS_TOKEN>"


class Source:
    """Draws examples of one split. The same seed gives the same examples."""

    def __init__(self, split: Split, seed: int) -> None:
        rng = random.Random(f"{split} {seed}")  # noqa: S311  # data, not secrets
        names = Names(rng, split)
        self._chat = Chat(rng, names)
        self._tools = Tools(rng, names)
        self._grounded = Grounded(rng, names)

    def example(self, task: Task, size: float = 1.0) -> Example:
        """One example; `size` from 0 to 1 is how many turns, tools, documents and facts it may have."""
        if task == "chat":
            return self._chat.example(size)
        if task == "tools":
            return self._tools.example(size)
        return self._grounded.example(task, size)

    def examples(self, task: Task, count: int) -> Iterator[Example]:
        """`count` examples of full size."""
        for _ in range(count):
            yield self.example(task)


class Prompts:
    """Renders prompts with the three chat templates of a checkpoint, given as name -> source."""

    def __init__(self, templates: Mapping[str, str]) -> None:
        self._templates = {name: ChatTemplate(source, name) for name, source in templates.items()}

    def render(self, example: Example) -> str:
        """The prompt up to where the reply begins."""
        if example.task == "chat":
            return self._templates["default"].render(example.messages, bos_token=_BOS)
        if example.task == "tools":
            return self._templates["tool_use"].render(example.messages, bos_token=_BOS, tools=example.tools)
        return self._templates["rag"].render(
            example.messages,
            bos_token=_BOS,
            documents=example.documents,
            citation_mode=example.citation_mode,
        )
