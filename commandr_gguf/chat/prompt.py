"""Chat templates: Jinja source that the checkpoint carries, rendered in a sandbox as transformers does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from commandr_gguf.errors import ArgumentError, FormatError, UnsupportedError
from commandr_gguf.gguf_file import GGUFFile

DEFAULT = "default"
_KEY = "tokenizer.chat_template"


class ChatTemplate:
    """One compiled chat template.

    Raises:
        FormatError: `source` is no valid Jinja; the text names `path`, the file it comes from, where it is given.
    """

    def __init__(self, source: str, name: str = DEFAULT, *, path: str | None = None) -> None:
        self._title = f"the chat template {name!r}" if path is None else f"{path}: the chat template {name!r}"
        self.name = name
        self.source = source
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise FormatError(f"{self._title} is not valid: {error}") from error

    @classmethod
    def from_gguf(cls, file: GGUFFile, name: str = DEFAULT) -> ChatTemplate:
        """The template that a GGUF file keeps under a name: "default", "tool_use" or "rag" in Command-R's.

        Raises:
            UnsupportedError: the file has no template of this name.
        """
        source = cls.source_in(file, name)
        if source is None:
            raise UnsupportedError(f"{file.path}: there is no chat template {name!r} (the key {_key(name)} is missing)")
        return cls(source, name, path=file.path)

    @staticmethod
    def source_in(file: GGUFFile, name: str = DEFAULT) -> str | None:
        """The Jinja source that a GGUF file keeps under a name; None when there is none."""
        key = _key(name)
        return file.typed(key, str) if key in file else None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        bos_token: str = "",
        eos_token: str = "",
        **variables: Any,
    ) -> str:
        """The prompt text, ending where the model's reply begins when `add_generation_prompt`.

        Raises:
            ArgumentError: the template refuses the messages, for example because the roles do not alternate.
        """
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=bos_token,
                eos_token=eos_token,
                **variables,
            )
        except Exception as error:  # a template is a program, it may fail in any way
            # Not the file's path: clients of a server read this.
            raise ArgumentError(f"the chat template {self.name!r} does not take these messages: {error}") from error


def _key(name: str) -> str:
    return _KEY if name == DEFAULT else f"{_KEY}.{name}"


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` marks assistant text for training in published templates; it renders its body."""

    tags = {"generation"}  # noqa: RUF012  # as the base class declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, > and ' for HTML; prompts are no HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().astimezone().strftime(pattern)
