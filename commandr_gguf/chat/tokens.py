"""Prompts to token ids, so that only the template's own text becomes control tokens.

Text from users, documents and tools may spell `<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>`. Such text
is broken up by a guard character before the template sees it; what the rendered prompt still spells unbroken is the
template's. The guards leave before the rest is encoded as plain text. Text that spells nothing is not touched, so its
ids are those of the whole rendered prompt, merges across the template's and the user's text included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from commandr_gguf.errors import ArgumentError
from commandr_gguf.tokenizer import Tokenizer

# Characters without a meaning of their own in Unicode: noncharacters first, then private use.
_GUARDS = [*map(chr, range(0xFDD0, 0xFDF0)), *map(chr, range(0xE000, 0xF8FF))]

# Words of the request's own form, which templates look up and compare. Vocabularies other than Command-R's have control
# tokens such as <s> and <|user|>, whose words these hold; a template does not set them in brackets but to mean those.
_FORM = frozenset(
    [
        *("arguments", "available_tools", "content", "data", "description", "documents", "function", "id", "messages"),
        *("name", "parameter_definitions", "parameters", "preamble", "properties", "required", "role", "switches"),
        *("text", "title", "tool_call_id", "tool_calls", "tool_name", "tool_plan", "tools", "turns", "type"),
        *("assistant", "chatbot", "system", "tool", "user"),
    ]
)


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt."""

    text: str
    """As the model's documentation would show it, without guards."""
    tokens: list[int]


def encode_prompt(tokenizer: Tokenizer, render: Callable[[Any], str], data: Any) -> Prompt:
    """Render a prompt and encode it.

    Args:
        tokenizer: of the model.
        render: makes the prompt of `data`; may be called several times.
        data: messages, documents, tools or other nested mappings and sequences; every string in it, keys included, is
            untrusted.

    Raises:
        ArgumentError: text in `data` would make a control token together with the template's text.
    """
    guard = _unused_character(data)
    whole = _break_up(data, tokenizer.special_pattern, guard)
    strict = _break_up(data, _fragment_pattern(tokenizer), guard)
    guarded = _Guarded(guard, tokenizer, render(whole))
    if strict != whole:
        # Two strings side by side, or one inside the template's own brackets, may spell what neither of them does.
        strict_guarded = _Guarded(guard, tokenizer, render(strict))
        if strict_guarded.text == guarded.text:
            guarded = strict_guarded
        elif strict_guarded.special != guarded.special:
            raise ArgumentError(
                "text of the request would become a control token together with the chat template's text"
            )
    return Prompt(guarded.text, guarded.encode())


class _Guarded:
    def __init__(self, guard: str, tokenizer: Tokenizer, rendered: str) -> None:
        self._guard = guard
        self._tokenizer = tokenizer
        self._rendered = rendered
        self.text = rendered.replace(guard, "")
        self.special = tokenizer.special_pattern.findall(rendered)

    def encode(self) -> list[int]:
        tokenizer = self._tokenizer
        plain = [text.replace(self._guard, "") for text in tokenizer.special_pattern.split(self._rendered)]
        ids = tokenizer.encode(plain[0])
        for special, text in zip(self.special, plain[1:], strict=True):
            ids.append(tokenizer.special_ids[special])
            ids += tokenizer.encode(text)
        if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids.insert(0, tokenizer.bos_id)
        return ids


def _fragment_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    """Matches the brackets, bars and words that control tokens are made of."""
    fragments = {fragment for text in tokenizer.special_ids for fragment in re.findall(r"[A-Za-z]+|[^\w\s]", text)}
    return re.compile("|".join(map(re.escape, sorted(fragments, key=len, reverse=True))) or r"(?!)")


def _break_up(data: Any, pattern: re.Pattern[str], guard: str) -> Any:
    """`data` with a guard before and behind the first character of each match."""

    def change(text: str) -> str:
        return text if text in _FORM else pattern.sub(lambda m: guard + m[0][0] + guard + m[0][1:], text)

    return _map_strings(data, change)


def _map_strings(data: Any, change: Callable[[str], str]) -> Any:
    if isinstance(data, str):
        return change(data)
    if isinstance(data, Mapping):
        return {_map_strings(key, change): _map_strings(value, change) for key, value in data.items()}
    if isinstance(data, Sequence) and not isinstance(data, (bytes, bytearray)):
        return [_map_strings(value, change) for value in data]
    return data


def _strings(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        yield from _strings(list(data))
        yield from _strings(list(data.values()))
    elif isinstance(data, Iterable) and not isinstance(data, (bytes, bytearray)):
        for value in data:
            yield from _strings(value)


def _unused_character(data: Any) -> str:
    used = set().union(*_strings(data))
    for character in _GUARDS:
        if character not in used:
            return character
    raise ArgumentError("the request uses every private character of Unicode")
