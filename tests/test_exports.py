"""The public names of commandr_gguf: listed, in order, and described."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

import commandr_gguf


def described(name: str) -> Iterator[tuple[str, str | None]]:
    """What needs a docstring below a public name: the object and a class's public functions and properties."""
    value = getattr(commandr_gguf, name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return
    yield name, value.__doc__
    if inspect.isclass(value):
        for member, item in vars(value).items():
            function = item.__func__ if isinstance(item, classmethod | staticmethod) else item
            if not member.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                yield f"{name}.{member}", function.__doc__


def test_names_are_sorted_and_exist() -> None:
    names = commandr_gguf.__all__
    assert list(names) == sorted(names)
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(commandr_gguf, name)] == []


def test_names_of_the_interface_are_there() -> None:
    assert {"CommandR", "Model", "SamplingParams", "Session", "Tokenizer", "generate"} <= set(commandr_gguf.__all__)


def test_nothing_else_is_public() -> None:
    public = {
        name
        for name, value in vars(commandr_gguf).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }
    assert public - set(commandr_gguf.__all__) == set()


@pytest.mark.parametrize("name", commandr_gguf.__all__)
def test_names_are_documented(name: str) -> None:
    assert [where for where, text in described(name) if not (text or "").strip()] == []
