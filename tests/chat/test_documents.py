"""Documents in every form become one."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from commandr_gguf import ArgumentError
from commandr_gguf.chat.documents import CheckedDocument, normalize_documents


@pytest.mark.parametrize(
    ("document", "name", "texts"),
    [
        ("A text.", "0", {"text": "A text."}),
        ('{"title": "looks like JSON"}', "0", {"text": '{"title": "looks like JSON"}'}),
        ({"title": "a", "text": "b"}, "0", {"title": "a", "text": "b"}),
        ({"id": "x", "title": "a"}, "x", {"id": "x", "title": "a"}),  # as transformers shows it
        ({"id": 7, "data": {"title": "a"}}, "7", {"title": "a"}),
        ({"id": "x", "data": "A text."}, "x", {"text": "A text."}),
        ({"data": "A text."}, "0", {"text": "A text."}),
        ({"data": '{"title": "a", "n": 1}'}, "0", {"title": "a", "n": "1"}),
        ({"data": "{no JSON"}, "0", {"text": "{no JSON"}),
        ({"id": "x", "data": {"data": "y"}}, "x", {"data": "y"}),
        ({"data": "a", "title": "b"}, "0", {"data": "a", "title": "b"}),
        (
            {"n": 3, "x": 2.5, "b": True, "none": None, "day": dt.date(2024, 3, 1), "list": ["é", {"k": 1}], "t": (1,)},
            "0",
            {
                "n": "3",
                "x": "2.5",
                "b": "True",
                "none": "None",
                "day": "2024-03-01",
                "list": '["é", {"k": 1}]',
                "t": "[1]",
            },
        ),
    ],
)
def test_forms(document: Any, name: str, texts: dict[str, str]) -> None:
    (checked,) = normalize_documents([document])
    assert checked.id == name
    assert checked.texts == texts


def test_values_are_kept_as_json_has_them() -> None:
    (checked,) = normalize_documents(iter([{"n": 3, "day": dt.date(2024, 3, 1), "t": (1, None)}]))
    assert checked == CheckedDocument("0", {"n": 3, "day": "2024-03-01", "t": [1, None]})


def test_ids_are_numbers_where_none_is_given() -> None:
    documents = normalize_documents(["a", {"id": "b", "data": "b"}, {"id": None, "data": "c"}])
    assert [document.id for document in documents] == ["0", "b", "2"]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ("a text", "documents must be a list"),
        ({"text": "a"}, "documents must be a list"),
        (3, "documents must be a list"),
        (["a", 3], "document 1 must be a string or a mapping, not int"),
        ([{"id": "x", "data": 3}], "document 0 must be a string or a mapping, not int"),
        (
            [{"title": "a", "text": b"x"}],
            "document 0 under 'text' must have a text, a number or a nested value, not bytes",
        ),
        ([{"text": [object()]}], "document 0 under 'text' must have a text, a number or a nested value, not object"),
        ([{"text": {3: "a"}}], "document 0 under 'text' has the key 3; keys must be strings"),
        ([{3: "a"}], "document 0 has the key 3; keys must be strings"),
        ([{"id": 1.5, "data": "a"}], "document 0 must have a string under 'id', not 1.5"),
        ([{"id": "", "data": "a"}], "document 0 must have a string under 'id', not ''"),
        ([{"id": True, "text": "a"}], "document 0 must have a string under 'id', not True"),
        (["a", ""], "document 1 is empty"),
        ([{}], "document 0 is empty"),
        ([{"id": "x", "data": {}}], "document 0 is empty"),
        ([{"id": "x"}], "document 0 is empty but for its id"),
        (["a", {"id": 3, "text": ""}], "document 1 is empty but for its id"),
        ([{"title": "", "list": [], "none": None}], "document 0 is empty"),
        ([{"id": "x", "data": "a"}, "b", {"id": "x", "data": "c"}], "documents 0 and 2 have the same id 'x'"),
        ([{"id": "1", "data": "a"}, "b"], "documents 0 and 1 have the same id '1'"),
    ],
)
def test_what_is_no_document_is_refused(documents: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        normalize_documents(documents)


@pytest.mark.parametrize("value", [0, False, 0.0])
def test_numbers_are_something(value: object) -> None:
    assert normalize_documents([{"n": value}])[0].data == {"n": value}
