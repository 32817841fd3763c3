"""Messages are checked before a template sees them."""

from __future__ import annotations

from typing import Any

import pytest

from commandr_gguf import ArgumentError
from commandr_gguf.chat.messages import normalize


def test_text_parts_are_joined_and_other_keys_left_out() -> None:
    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "there"}]
    assert normalize([{"role": "user", "content": parts, "name": "x"}]) == [{"role": "user", "content": "Hello there"}]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "at least one message"),
        ("Hello", "must be a list"),
        (3, "must be a list"),
        ({"role": "user", "content": "Hello"}, "must be a list"),
        (["Hello"], "message 0 must be a mapping"),
        ([{"content": "Hello"}], "message 0 has the role None"),
        ([{"role": "user", "content": "a"}, {"role": "robot", "content": "b"}], "message 1 has the role 'robot'"),
        ([{"role": "user"}], "message 0 has a content that is neither"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 0 has a content that is neither"),
        ([{"role": "user", "content": 3}], "message 0 has a content that is neither"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        normalize(messages)
