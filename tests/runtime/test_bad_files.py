"""Damaged and foreign files: one sentence that names what is wrong, from Python and from the command line.

The files are good ones with a few bytes changed, so that they are well-formed but for the one fault.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import models
from commandr_gguf import CommandRError, FileError, FormatError, Model, UnsupportedError
from commandr_gguf.cli import main

UINT32, FLOAT32, STRING = 4, 6, 8
Change = Callable[[bytes], bytes]


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    assert len(old) == len(new)
    return data.replace(old, new)


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def key_type(key: str, old: int, new: int) -> Change:
    name = string(key)
    return lambda data: replaced(data, name + struct.pack("<I", old), name + struct.pack("<I", new))


def key_value(key: str, old: int, new: int) -> Change:
    name = string(key) + struct.pack("<I", UINT32)
    return lambda data: replaced(data, name + struct.pack("<I", old), name + struct.pack("<I", new))


def renamed(old: str, new: str) -> Change:
    return lambda data: replaced(data, string(old), string(new))


def tensor(name: str, old: tuple[int, ...], new: tuple[int, ...], new_type: int = 0) -> Change:
    def header(shape: tuple[int, ...], ggml_type: int) -> bytes:
        return string(name) + struct.pack(f"<I{len(shape)}QI", len(shape), *shape, ggml_type)

    return lambda data: replaced(data, header(old, 0), header(new, new_type))


ARCHITECTURE = string("general.architecture") + struct.pack("<I", STRING)

CASES: dict[str, tuple[Change, type[CommandRError], str]] = {
    "empty": (lambda _: b"", FormatError, ""),
    "text": (lambda _: b"This is no model.\n" * 100, FormatError, ""),
    "wrong magic": (lambda data: b"GGML" + data[4:], FormatError, ""),
    "version 99": (lambda data: data[:4] + struct.pack("<I", 99) + data[8:], CommandRError, "99"),
    "big-endian version": (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], CommandRError, ""),
    "cut in the keys": (lambda data: data[:1000], FormatError, ""),
    "cut in the tensors": (lambda data: data[: len(data) // 2], FormatError, ""),
    "last byte missing": (lambda data: data[:-1], FormatError, ""),
    "2^60 keys": (lambda data: data[:16] + struct.pack("<Q", 2**60) + data[24:], FormatError, ""),
    "2^60 tensors": (lambda data: data[:8] + struct.pack("<Q", 2**60) + data[16:], FormatError, ""),
    "another architecture": (
        lambda data: replaced(data, ARCHITECTURE + string("command-r"), ARCHITECTURE + string("mamba-two")),
        UnsupportedError,
        "mamba-two",
    ),
    "a key of another type": (
        key_type("command-r.block_count", UINT32, FLOAT32),
        FormatError,
        "command-r.block_count",
    ),
    "a key absent": (renamed("command-r.block_count", "command-r.block_cnt_x"), FormatError, "command-r.block_count"),
    "no layers": (key_value("command-r.block_count", 4, 0), FormatError, "command-r.block_count"),
    "heads that do not divide": (key_value("command-r.attention.head_count", 8, 7), CommandRError, "head_count"),
    "more layers than tensors": (key_value("command-r.block_count", 4, 5), FormatError, "blk.4.attn_norm.weight"),
    "a tensor absent": (
        renamed("blk.2.ffn_up.weight", "blk.2.ffn_xx.weight"),
        FormatError,
        "blk.2.ffn_",
    ),
    "a tensor of another shape": (
        tensor("blk.1.attn_q.weight", (256, 256), (128, 512)),
        FormatError,
        "blk.1.attn_q.weight",
    ),
    "a tensor with its sides exchanged": (
        tensor("blk.1.ffn_up.weight", (256, 512), (512, 256)),
        FormatError,
        "blk.1.ffn_up.weight",
    ),
    "a tensor of an unknown type": (
        tensor("blk.1.ffn_up.weight", (256, 512), (256, 512), 999),
        CommandRError,
        "blk.1.ffn_up.weight",
    ),
    "a tensor of 2^62 elements": (
        tensor("blk.1.ffn_up.weight", (256, 512), (2**31, 2**31)),
        CommandRError,
        "blk.1.ffn_up.weight",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_names_what_is_wrong(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, expected, mentioned = CASES[name]
    good = models.gguf("gqa").read_bytes()
    bad = change(good)
    assert bad != good
    path = tmp_path / "bad.gguf"
    path.write_bytes(bad)
    with pytest.raises(expected) as caught:
        Model(path)
    message = str(caught.value)
    assert "bad.gguf" in message
    assert mentioned in message
    assert "\n" not in message
    for command in (["generate", str(path), "Hello"], ["bench", str(path)]):
        assert main(command) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == f"commandr: {message}\n"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=str(tmp_path)):
        Model(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"absent\.gguf"):
        Model(tmp_path / "absent.gguf")


def test_keys_that_only_the_tokenizer_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(renamed("tokenizer.ggml.merges", "tokenizer.ggml.mergez")(models.gguf("gqa").read_bytes()))
    assert main(["generate", str(path), "Hello", "--ctx", "64"]) == 2
    assert "the key tokenizer.ggml.merges is missing" in capsys.readouterr().err
