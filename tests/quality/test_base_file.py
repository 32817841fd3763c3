"""Files of log-probabilities: what is written is read, wholly or not at all, and other files are refused."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from commandr_gguf.errors import ArgumentError, FileError, FormatError
from commandr_gguf.quality.base_file import BaseReader, base_bytes, write_base
from commandr_gguf.quality.chunks import Chunks
from commandr_gguf.quality.log_probs import encode_rows, log_sum_exp

N_CTX, N_VOCAB, N_CHUNKS = 9, 33, 2
N_SCORED = 4
CHUNKS = Chunks(np.random.default_rng(0).integers(0, N_VOCAB, (N_CHUNKS, N_CTX)).astype(np.int32), 5)
LOGITS = np.random.default_rng(1).normal(size=(N_CHUNKS * N_SCORED, N_VOCAB)).astype(np.float32)


def write(path: Path, chunks: Chunks = CHUNKS, logits: npt.NDArray[np.float32] = LOGITS) -> Path:
    with write_base(path, chunks, N_VOCAB) as base:
        for rows in (slice(0, 3), slice(3, None)):
            base.write(logits[rows], log_sum_exp(logits[rows]))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    with BaseReader(write(tmp_path / "base")) as base:
        assert (base.n_vocab, base.n_ctx) == (N_VOCAB, N_CTX)
        assert base.tokens.tolist() == CHUNKS.tokens.tolist()
        codes = encode_rows(LOGITS, log_sum_exp(LOGITS))
        assert base.read(0, slice(0, 4)).tolist() == codes[:4].tolist()
        assert base.read(1, slice(1, 3)).tolist() == codes[5:7].tolist()


def test_the_size_is_known_before(tmp_path: Path) -> None:
    size = write(tmp_path / "base").stat().st_size
    assert size == base_bytes(N_CHUNKS, N_CTX, N_VOCAB) == 20 + 4 * 18 + 8 * 2 * (4 + 34)


def test_sizes_of_large_vocabularies_are_exact() -> None:
    assert base_bytes(1000, 512, 256_000) == 20 + 4 * 512_000 + 2 * 255_000 * 256_004


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FormatError("no"), ValueError()])
def test_an_interrupted_base_leaves_nothing_and_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "base"
    path.write_bytes(b"before")

    def interrupted() -> None:
        with write_base(path, CHUNKS, N_VOCAB) as base:
            base.write(LOGITS, log_sum_exp(LOGITS))
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


def test_a_base_replaces_what_a_link_points_to(tmp_path: Path) -> None:
    target = tmp_path / "target"
    link = tmp_path / "link"
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.stat().st_size == base_bytes(N_CHUNKS, N_CTX, N_VOCAB)


def test_a_disk_without_room_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=699)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    sentence = f"{tmp_path}/base: the base needs 700 bytes, and its disk has 699 free"
    with pytest.raises(FileError, match=sentence), write_base(tmp_path / "base", CHUNKS, N_VOCAB):
        pytest.fail("the work began")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = Path.open

    class Full:
        """Takes 300 bytes in all, a part of a write first, as a full disk does."""

        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 300

        def write(self, data: memoryview) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            n = min(self.left, len(data))
            self.left -= n
            self.file.write(data[:n])
            return n

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    monkeypatch.setattr(Path, "open", lambda self, *args, **kwargs: Full(open_file(self, *args, **kwargs)))
    with pytest.raises(FileError, match="base: the base cannot be written: No space left"):
        write(tmp_path / "base")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="absent/base: the base cannot be written: No such file"):
        write(tmp_path / "absent" / "base")


# ---- what is refused


def damaged(path: Path, at: int, data: bytes) -> Path:
    content = bytearray(write(path).read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(content)
    return path


def number(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


@pytest.mark.parametrize(
    ("at", "data", "sentence"),
    [
        (0, b"GGUF", "no file of log-probabilities: it does not begin with _logits_"),
        (8, number(4), "states 2 chunks of 4 tokens"),
        (8, number(-9), "states 2 chunks of -9 tokens"),
        (12, number(0), "a vocabulary of 0"),
        (16, number(0), "states 0 chunks of 9 tokens"),
        (16, number(3), "cut short: it has 700 bytes, its header asks for 1040"),
        (16, number(1), "too long: it has 700 bytes, its header asks for 360"),
        (16, number(2**31 - 1), "cut short"),
        (20, number(33), "tokens outside its vocabulary of 33"),
        (24, number(-1), "tokens outside its vocabulary of 33"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, at: int, data: bytes, sentence: str) -> None:
    path = damaged(tmp_path / "base", at, data)
    with pytest.raises(FormatError, match=f"base: .*{sentence}"):
        BaseReader(path)


@pytest.mark.parametrize("size", [0, 5, 8, 19, 20, 50, 699])
def test_files_that_end_early_are_refused(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "base")
    os.truncate(path, size)
    with pytest.raises(FormatError, match="cut short" if size >= 8 else "no file of log-probabilities"):
        BaseReader(path)


def test_a_file_that_is_cut_short_while_it_is_read_is_refused(tmp_path: Path) -> None:
    logits = np.random.default_rng(2).normal(size=(8, 20_000)).astype(np.float32)  # rows larger than what is read ahead
    with write_base(tmp_path / "base", CHUNKS, 20_000) as written:
        written.write(logits, log_sum_exp(logits))
    with BaseReader(tmp_path / "base") as base:
        os.truncate(tmp_path / "base", base_bytes(N_CHUNKS, N_CTX, 20_000) - 2)
        base.read(1, slice(0, 3))
        with pytest.raises(FormatError, match="cut short while it was read"):
            base.read(1, slice(3, 4))


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="absent: the base cannot be read: No such file"):
        BaseReader(tmp_path / "absent")
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        BaseReader(tmp_path)


def test_a_comparison_needs_the_same_vocabulary_context_and_text(tmp_path: Path) -> None:
    with BaseReader(write(tmp_path / "base")) as base:
        longer = Chunks(np.vstack([CHUNKS.tokens, CHUNKS.tokens]), 5)
        base.check(N_VOCAB, N_CTX, None)
        base.check(N_VOCAB, N_CTX, longer)
        with pytest.raises(ArgumentError, match="the base has a vocabulary of 33 tokens, the model one of 34"):
            base.check(34, N_CTX, None)
        with pytest.raises(ArgumentError, match="made with a context of 9 tokens, not 10"):
            base.check(N_VOCAB, 10, None)
        for other in (CHUNKS.limit(1), Chunks(CHUNKS.tokens[::-1], 5)):
            with pytest.raises(ArgumentError, match="made of another text"):
                base.check(N_VOCAB, N_CTX, other)
