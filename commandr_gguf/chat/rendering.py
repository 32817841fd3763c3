"""Prompts of one model: the templates of its file, what takes the place of those it lacks, and requests to tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

from commandr_gguf.chat.command_a import Family, family_of, render_command_a
from commandr_gguf.chat.multi_step import render_multi_step
from commandr_gguf.chat.prompt import DEFAULT, ChatTemplate
from commandr_gguf.chat.request import Request
from commandr_gguf.chat.templates import FALLBACK_TEMPLATES
from commandr_gguf.chat.tokens import Prompt, encode_prompt
from commandr_gguf.errors import UnsupportedError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.tokenizer import Tokenizer

logger = logging.getLogger("commandr_gguf.chat")


class PromptRenderer:
    """Renders the requests of one file. Which template the file lacks is said once, by the logger of this module."""

    def __init__(self, file: GGUFFile, tokenizer: Tokenizer) -> None:
        self._file = file
        self._tokenizer = tokenizer
        self._templates: dict[str, ChatTemplate] = {}
        self._warned = False

    @cached_property
    def family(self) -> Family:
        """The kind of prompt that the model reads, by the file's chat templates."""
        names = (DEFAULT, "tool_use", "rag")
        return family_of(ChatTemplate.source_in(self._file, name) or "" for name in names)

    def template(self, name: str = DEFAULT) -> ChatTemplate:
        """A chat template by its name, "default", "tool_use" or "rag": the file's, or ours where it has none.

        Raises:
            UnsupportedError: there is no template of another name.
        """
        if name not in self._templates:
            self._templates[name] = self._load(name)
        return self._templates[name]

    def render(self, request: Request, *, add_generation_prompt: bool = True) -> Prompt:
        """The prompt of a request as text and as token ids.

        Raises:
            ArgumentError: the template refuses the messages.
        """
        return encode_prompt(self._tokenizer, self._renderer(request, add_generation_prompt), request.data)

    def _load(self, name: str) -> ChatTemplate:
        try:
            return ChatTemplate.from_gguf(self._file, name)
        except UnsupportedError:
            if name not in FALLBACK_TEMPLATES:
                raise
        if not self._warned:
            self._warned = True
            logger.warning(
                "%s: there is no chat template %r; one of the published structure takes its place",
                self._file.path,
                name,
            )
        return ChatTemplate(FALLBACK_TEMPLATES[name], name)

    def _renderer(self, request: Request, add_generation_prompt: bool) -> Callable[[Any], str]:
        options: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._text_of(self._tokenizer.bos_id),
        }
        if request.template == "multi_step":
            return lambda data: render_multi_step(data, **options)
        if request.template in {"cmd3", "cmd4"}:
            return lambda data: render_command_a(data, self.family, **options)
        template = self.template(request.template)
        options |= {"citation_mode": request.citation_mode, "eos_token": self._text_of(self._tokenizer.eos_id)}
        return lambda data: template.render(**data, **options)

    def _text_of(self, token: int | None) -> str:
        return "" if token is None else self._tokenizer.decode([token])
