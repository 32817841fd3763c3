"""State files that are damaged, do not fit, or would be written over what is no file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

import models
from commandr_gguf import ContextFullError, FileError, FormatError, GGUFFile, Model, Session, UnsupportedError

TOKENS = np.r_[5, np.random.default_rng(4).integers(8, 600, 99)].astype(np.int32)
OPTIONS: dict[str, Any] = {"n_ctx": 256, "n_seq_max": 2, "n_threads": 1}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(models.gguf("gqa")) as opened:
        yield opened


@pytest.fixture
def session(model: Model) -> Iterator[Session]:
    with Session(model, **OPTIONS) as opened:
        opened.eval(TOKENS)
        yield opened


@pytest.fixture
def state(session: Session, tmp_path: Path) -> Path:
    session.save_state(tmp_path / "state")
    return tmp_path / "state"


def flip(path: Path, *places: tuple[int, int]) -> None:
    data = bytearray(path.read_bytes())
    for offset, bit in places:
        data[offset] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bits_are_found(session: Session, state: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    places = random.integers(80, state.stat().st_size - 8, size=2)
    bits = [7, 7] if seed % 2 else random.integers(0, 8, size=2).tolist()  # 7 of a half float's last byte is its sign
    places = places // 8 * 8 + 7 if seed % 2 else places
    if places[0] == places[1]:
        places[1] += 8
    flip(state, *zip(places.tolist(), bits, strict=True))
    with pytest.raises(FormatError, match="damaged"):
        session.load_state(state)
    assert session.seq_length() == 0


@pytest.mark.parametrize("n", [0, 7, 60, 500, -1])
def test_a_cut_off_file_leaves_the_sequence_as_it_was(session: Session, state: Path, n: int) -> None:
    state.write_bytes(state.read_bytes()[:n])
    with pytest.raises(FormatError, match="state"):
        session.load_state(state)
    assert session.seq_tokens() == TOKENS.tolist()


def test_a_length_that_cannot_be_is_damage(session: Session, state: Path) -> None:
    flip(state, (55, 6))  # the highest byte of n_tokens
    with pytest.raises(FormatError):
        session.load_state(state)
    assert session.seq_tokens() == TOKENS.tolist()


def test_no_room_leaves_the_sequence_as_it_was(session: Session, state: Path) -> None:
    session.seq_rm(0)
    session.eval(TOKENS[:10], seq_id=1)
    session.eval(np.tile(TOKENS, 2)[:190], seq_id=0)
    with pytest.raises(ContextFullError, match=r"state: its 100 tokens do not fit in the context of 256"):
        session.load_state(state, seq_id=1)
    assert session.seq_tokens(1) == TOKENS[:10].tolist()
    session.load_state(state, seq_id=0)  # in place of what it held itself
    assert session.seq_tokens(0) == TOKENS.tolist()


def test_of_another_model_or_cache(state: Path, model: Model) -> None:
    with Model(models.gguf("v01")) as other, Session(other, **OPTIONS) as session:  # noqa: SIM117
        with pytest.raises(FormatError, match="another model"):
            session.load_state(state)
    with Session(model, **OPTIONS, type_k="q8_0") as session, pytest.raises(FormatError, match="Q8_0"):
        session.load_state(state)


def test_of_other_weights_under_the_same_header(state: Path, tmp_path: Path) -> None:
    data = np.fromfile(models.gguf("gqa"), np.uint8)
    with GGUFFile(models.gguf("gqa")) as file:
        data[min(tensor.offset for tensor in file.tensors) :] ^= 1
    data.tofile(tmp_path / "tuned.gguf")
    with Model(tmp_path / "tuned.gguf") as other, Session(other, **OPTIONS) as session:  # noqa: SIM117
        with pytest.raises(FormatError, match="another model"):
            session.load_state(state)


def test_what_is_no_file_is_not_replaced(session: Session, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(FileError, match="exists and is not a file"):
        session.save_state(fifo)
    assert fifo.is_fifo()
    assert list(tmp_path.iterdir()) == [fifo]


def test_a_link_stays_and_its_target_is_replaced(session: Session, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    session.save_state(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    session.seq_rm(0)
    session.load_state(tmp_path / "target")
    assert session.seq_tokens() == TOKENS.tolist()


def test_two_threads_save_to_one_path(model: Model, tmp_path: Path) -> None:
    sessions = [Session(model, **OPTIONS) for _ in range(2)]
    for session in sessions:
        session.eval(TOKENS)
    threads = [threading.Thread(target=s.save_state, args=(tmp_path / "state",)) for s in sessions for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.load_state(tmp_path / "state")
        session.close()
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


# ---- packed


@pytest.fixture
def packed(session: Session, tmp_path: Path) -> Path:
    session.save_state(tmp_path / "packed", compress=True)
    return tmp_path / "packed"


@pytest.mark.parametrize("n_tokens", [1, 2, 99, 100])
def test_a_packed_file_gives_back_what_the_raw_one_gives(model: Model, tmp_path: Path, n_tokens: int) -> None:
    with Session(model, **OPTIONS) as session:
        session.eval(TOKENS[:n_tokens])
        session.save_state(tmp_path / "raw")
        session.save_state(tmp_path / "packed", compress=True)
        session.seq_rm(0)
        session.load_state(tmp_path / "packed")
        assert session.seq_tokens() == TOKENS[:n_tokens].tolist()
        session.save_state(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "raw").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "packed", "raw"]


def test_a_packed_file_is_smaller(state: Path, packed: Path) -> None:
    assert packed.stat().st_size < 0.97 * state.stat().st_size


@pytest.mark.parametrize("n", [80, 500, -1])
def test_a_cut_off_packed_file_leaves_the_sequence_as_it_was(session: Session, packed: Path, n: int) -> None:
    packed.write_bytes(packed.read_bytes()[:n])
    with pytest.raises(FormatError, match=r"packed: .*(cut off|damaged)"):
        session.load_state(packed)
    assert session.seq_tokens() == TOKENS.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_flipped_bits_of_a_packed_file_are_found(session: Session, packed: Path, seed: int) -> None:
    place = int(np.random.default_rng(seed).integers(90, packed.stat().st_size))
    flip(packed, (place, seed % 8))
    with pytest.raises(FormatError, match="packed"):
        session.load_state(packed)


def test_the_header_of_a_packed_file_is_checked_as_that_of_a_raw_one(packed: Path, model: Model) -> None:
    with Session(model, **OPTIONS, type_k="q8_0") as session, pytest.raises(FormatError, match=r"packed: its KV cache"):
        session.load_state(packed)


def test_a_packed_file_cannot_be_written(session: Session, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileError, match="exists and is not a file"):
        session.save_state(tmp_path / "fifo", compress=True)
    with pytest.raises(FileError, match="cannot be written: No such file"):
        session.save_state(tmp_path / "none" / "packed", compress=True)


def test_no_more_is_unpacked_than_the_header_calls_for(
    session: Session, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    packed.write_bytes(packed.read_bytes()[:80] + bomb)
    memory = os.memfd_create("bomb")
    monkeypatch.setattr(os, "memfd_create", lambda _name: os.dup(memory))
    with pytest.raises(FormatError, match="packed: [0-9]+ bytes long, and its header calls for [0-9]+: it is damaged"):
        session.load_state(packed)
    assert os.fstat(memory).st_size <= 8 << 20
    os.close(memory)
    assert session.seq_tokens() == TOKENS.tolist()


def test_a_packed_file_of_more_tokens_than_the_context_says_so(model: Model, packed: Path) -> None:
    with Session(model, n_ctx=64) as small, pytest.raises(ContextFullError, match=r"packed: its 100 tokens do not fit"):
        small.load_state(packed)


def test_files_of_version_1_are_refused_by_name(session: Session, state: Path) -> None:
    data = bytearray(state.read_bytes())
    data[8:12] = (1).to_bytes(4, "little")
    state.write_bytes(data)
    with pytest.raises(UnsupportedError, match="state file version 1, and only 2 is known"):
        session.load_state(state)
    assert session.seq_tokens() == TOKENS.tolist()
