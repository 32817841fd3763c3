"""Files with chat templates only, as far as prompts need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from commandr_gguf import GGUFFile, Prompt, Tokenizer
from commandr_gguf.chat.rendering import PromptRenderer
from commandr_gguf.chat.request import make_request


class File:
    """What a prompt's renderer asks of a GGUF file."""

    path = "x.gguf"

    def __init__(self, templates: Mapping[str, str]) -> None:
        prefix = "tokenizer.chat_template"
        self._keys = {prefix if name == "default" else f"{prefix}.{name}": text for name, text in templates.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def typed(self, key: str, kind: type) -> str:
        assert kind is str
        return self._keys[key]


class Prompts:
    """What `CommandR.prompt` does, without a model."""

    def __init__(self, tokenizer: Tokenizer, templates: Mapping[str, str]) -> None:
        self.renderer = PromptRenderer(cast("GGUFFile", File(templates)), tokenizer)

    def __call__(self, messages: Any, *, add_generation_prompt: bool = True, **options: Any) -> Prompt:
        request = make_request(messages, family=self.renderer.family, **options)
        return self.renderer.render(request, add_generation_prompt=add_generation_prompt)
