"""The mapping view of a GGUF header."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

import models
from commandr_gguf import ClosedError, FileError, FormatError, GGUFFile


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("gguf") / "kinds é.gguf"
    writer = gguf.GGUFWriter(target, "command-r")
    writer.add_uint8("u8", 200)
    writer.add_int64("i64", -(2**40))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("text", "größe 🌍")
    writer.add_array("ints", [1, -2, 3])
    writer.add_array("floats", [0.5, 2.0])
    writer.add_array("flags", [True, False])
    writer.add_array("texts", ["a", "", "ü"])
    writer.add_tensor("x.weight", np.zeros((3, 64), np.float32))
    writer.add_tensor("y", np.zeros(32, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_values_have_python_types(path: Path) -> None:
    with GGUFFile(path) as file:
        assert dict(file) == {
            "general.architecture": "command-r",
            "u8": 200,
            "i64": -(2**40),
            "f32": 0.5,
            "f64": 0.1,
            "yes": True,
            "text": "größe 🌍",
            "ints": [1, -2, 3],
            "floats": [0.5, 2.0],
            "flags": [True, False],
            "texts": ["a", "", "ü"],
        }
        assert {type(file[key]) for key in ("u8", "f32", "yes", "text")} == {int, float, bool, str}
        assert file["flags"] == [True, False]
        assert "text" in file
        assert "texts " not in file
        assert (file.array_length("texts"), file.array_length("text")) == (3, None)
        assert file.get("absent", 7) == 7
        with pytest.raises(KeyError):
            file["absent"]
        with pytest.raises(KeyError):
            file.array_length("absent")


def test_tensors(path: Path) -> None:
    with GGUFFile(path) as file:
        x, y = file.tensors
    assert (x.name, x.type, x.shape, x.size) == ("x.weight", "F32", (64, 3), 768)
    assert (y.name, y.type, y.shape, y.size) == ("y", "F16", (32,), 64)
    assert path.stat().st_size >= y.offset + y.size > x.offset + x.size


def test_typed_values(path: Path) -> None:
    with GGUFFile(path) as file:
        assert file.typed("u8", int) == 200
        assert file.typed("u8", float) == 200.0
        assert file.typed("absent", str, "x") == "x"
        assert file.typed("absent", bool, False) is False
        assert file.typed_list("texts", str) == ["a", "", "ü"]
        for key, kind, message in (
            ("absent", int, "the key absent is missing"),
            ("text", int, "the key text is not an integer"),
            ("yes", int, "the key yes is not an integer"),
            ("f32", str, "the key f32 is not a string"),
            ("texts", str, "the key texts is not a string"),
        ):
            with pytest.raises(FormatError, match=message) as caught:
                file.typed(key, kind)
            assert path.name in str(caught.value)
        for key in ("absent", "text", "ints"):
            with pytest.raises(FormatError, match=f"the key {key} is"):
                file.typed_list(key, str)


def test_use_after_close(path: Path) -> None:
    file = GGUFFile(path)
    file.close()
    file.close()
    for use in (
        lambda: file["text"],
        lambda: len(file),
        lambda: list(file),
        lambda: file.tensors,
        lambda: "u8" in file,
    ):
        with pytest.raises(ClosedError, match="was closed"):
            use()


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"absent\.gguf"):
        GGUFFile(tmp_path / "absent.gguf")
    with pytest.raises(FileError):
        GGUFFile(tmp_path)


def test_a_path_with_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        GGUFFile("a\0b")


def test_real_files(tmp_path: Path) -> None:
    with GGUFFile(models.gguf("cohere2")) as file:
        assert file["general.architecture"] == "cohere2"
        assert len(file.tensors) == 8 * 8 + 2
