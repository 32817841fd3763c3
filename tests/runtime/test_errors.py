"""The exception tree."""

from __future__ import annotations

import pytest

import commandr_gguf
from commandr_gguf import errors
from commandr_gguf._native import lib


def test_each_status_has_its_exception() -> None:
    errors.check(lib.COMMANDR_OK)
    statuses = [getattr(lib, name) for name in dir(lib) if name.startswith("COMMANDR_ERROR_")]
    assert len(statuses) == 8
    raised = set()
    for status in statuses:
        with pytest.raises(commandr_gguf.CommandRError) as caught:
            errors.check(status)
        raised.add(type(caught.value))
    assert len(raised) == 8
    assert commandr_gguf.CommandRError not in raised


def test_an_unknown_status_is_an_error_too() -> None:
    with pytest.raises(commandr_gguf.CommandRError):
        errors.check(99)


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [("ArgumentError", ValueError), ("FileError", OSError), ("OutOfMemoryError", MemoryError)],
)
def test_errors_are_also_what_python_calls_them(ours: str, builtin: type[Exception]) -> None:
    error = getattr(commandr_gguf, ours)("one sentence")
    assert isinstance(error, builtin)
    assert isinstance(error, commandr_gguf.CommandRError)
    assert str(error) == "one sentence"


def test_every_exception_is_exported_and_drawn() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes <= set(commandr_gguf.__all__)
    assert errors.__doc__ is not None
    assert all(name in errors.__doc__ for name in classes)
