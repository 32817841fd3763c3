"""`n_gpu_layers="auto"` on cards that are not there: what is chosen, and that the devices' own measures correct it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from commandr_gguf.errors import OutOfMemoryError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.plan import host, settling
from commandr_gguf.plan.hollow import hollow_file
from commandr_gguf.plan.places import described
from commandr_gguf.plan.shapes import SHAPES

GIB = 1 << 30
SESSION: dict[str, Any] = {"n_ctx": None, "n_seq_max": None, "type_k": "f16", "type_v": "f16"}


@pytest.fixture(scope="module")
def file() -> Iterator[GGUFFile]:
    with hollow_file(SHAPES["command-r-v01"], "Q4_K_M") as opened:
        yield opened


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Called with GiB of cards: the machine has them, and 64 GiB beside."""

    def put(*sizes: int) -> None:
        found = [described("cpu", 0, 64 * GIB, None)]
        found += [described("gpu", i, size * GIB, None) for i, size in enumerate(sizes)]
        monkeypatch.setattr(settling, "present", lambda _rpc=None: found)
        monkeypatch.setattr(host, "available_memory", lambda: 1 << 50)

    return put


def test_without_a_card_nothing_is_planned(file: GGUFFile, cards: Any) -> None:
    cards()
    assert settling.place(file, {}, SESSION) == {"n_gpu_layers": 0}


def test_the_default_context_is_kept_where_it_fits(file: GGUFFile, cards: Any) -> None:
    cards(80)
    assert settling.place(file, {}, SESSION) == {"n_gpu_layers": 41}
    loading, session = settling.settle(file.path, {"n_gpu_layers": "auto"}, SESSION)
    assert loading == {"n_gpu_layers": 41}
    assert session == SESSION | {"n_seq_max": 4}  # the session takes at least as much, and more where that fits


def test_a_given_context_costs_layers(file: GGUFFile, cards: Any) -> None:
    cards(24)
    short, long = (settling.place(file, {}, SESSION | {"n_ctx": n}) for n in (1024, 16384))
    assert set(short) == set(long) == {"n_gpu_layers"}
    assert long["n_gpu_layers"] < short["n_gpu_layers"] == 41


def test_several_cards_get_a_split_unless_one_is_given(file: GGUFFile, cards: Any) -> None:
    cards(16, 16)
    assert sum(settling.place(file, {}, SESSION)["tensor_split"]) == 40
    assert "tensor_split" not in settling.place(file, {"tensor_split": [1.0, 2.0]}, SESSION)


def test_a_host_without_room_takes_a_shorter_context(
    file: GGUFFile, cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(80)
    monkeypatch.setattr(settling, "default_n_ctx", lambda *_, **__: 131072)
    assert settling.place(file, {}, SESSION) == {"n_gpu_layers": 41, "n_ctx": 32768}


def test_what_the_devices_measure_has_the_last_word(
    file: GGUFFile, cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(80)
    answers = iter([["too much"], ["too much"], []])
    monkeypatch.setattr(settling, "lacks", lambda *_: next(answers))
    assert settling.place(file, {}, SESSION) == {"n_gpu_layers": 39}


def test_what_fits_nowhere_is_refused_in_the_end(file: GGUFFile, cards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(1)
    monkeypatch.setattr(host, "available_memory", lambda: 8 * GIB)
    with pytest.raises(OutOfMemoryError, match="this fits: .*repack=False"):
        settling.settle(file.path, {"n_gpu_layers": "auto"}, SESSION)
