"""Sequences much longer than a sliding window, and long enough for attention to be cut into chunks and joined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import measure
import models
import shapes
from commandr_gguf import ArgumentError, CancelledError, Model, Session
from reference import Reference

N = 700
N_PREFIX = 660
WINDOW_SLACK = 64  # tokens that a sequence may be shortened by without losing what the window sees
F16_ERROR = 1e-2  # standard deviations; measured 1.6e-3 to 3.7e-3. ggml's sums in half precision exceed it
TOKENS = np.r_[5, np.random.default_rng(1).integers(8, 600, N - 1)].astype(np.int32)
OTHER = np.r_[5, np.random.default_rng(2).integers(8, 600, N - 1)].astype(np.int32)


class Case:
    """A converted model and what it should compute for TOKENS and OTHER."""

    def __init__(self, folder: Path, shape: str, **config: Any) -> None:
        checkpoint = shapes.write_checkpoint(folder / "checkpoint", shape, **config)
        self.reference = Reference(checkpoint)
        self.expected = self.reference.logits(TOKENS)
        self.model = Model(models.convert(checkpoint, folder / "model.gguf", "F32"))

    def session(self, **options: Any) -> Session:
        defaults: dict[str, Any] = {"n_ctx": 2048, "type_k": "f32", "type_v": "f32", "n_threads": 2}
        return Session(self.model, **(defaults | options))

    def logits(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
        return self.reference.logits(tokens)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """Windows of 20 positions."""
    case = Case(tmp_path_factory.mktemp("window"), "cohere2")
    yield case
    case.model.close()


# A head dimension that no vector width divides, and groups of four heads.
ODD_HEADS = {"hidden_size": 320, "num_attention_heads": 8, "num_key_value_heads": 2}


@pytest.mark.parametrize(("shape", "config"), [("v01", {}), ("gqa", {}), ("gqa", ODD_HEADS), ("cohere2", {})])
def test_attention_in_chunks(shape: str, config: dict[str, Any], tmp_path: Path) -> None:
    case = Case(tmp_path, shape, **config)
    for kv_type, bound in ("f32", 1e-3), ("f16", F16_ERROR):
        for n_ubatch in 1, 3, 40:
            rows = []
            with case.session(type_k=kv_type, type_v=kv_type, n_ubatch=n_ubatch, n_outputs=n_ubatch) as session:
                session.eval(TOKENS[:N_PREFIX], n_outputs=0)
                for begin in range(N_PREFIX, N, n_ubatch):
                    end = min(begin + n_ubatch, N)
                    session.eval(TOKENS[:end], n_outputs=end - begin)
                    assert session.n_reused() == begin
                    rows.append(session.logits())
            error = measure.relative_error(np.concatenate(rows), case.expected[N_PREFIX:])
            assert error < bound, f"{kv_type}, {n_ubatch} tokens a graph: {error:.1e}"


def test_a_window_cache_stays_small(window: Case) -> None:
    def kv_bytes(n_ctx: int) -> int:
        with window.session(n_ctx=n_ctx, n_ubatch=16) as session:
            return sum(use.size for use in session.memory() if use.what.startswith("kv"))

    hp = window.model.hparams
    cell = 2 * 4 * hp.n_head_kv * hp.head_dim  # K and V in float32
    n_full = hp.n_layer // hp.swa_period
    assert kv_bytes(8192) - kv_bytes(4096) == 4096 * cell * n_full


def test_every_position_beyond_the_window(window: Case) -> None:
    with window.session(n_ubatch=16, n_outputs=16) as session:
        session.eval(TOKENS, n_outputs=N)
        measure.assert_same(session.logits(), window.expected)


@pytest.mark.parametrize("n_back", [1, 20, WINDOW_SLACK])
def test_a_short_rollback_reuses_the_rest(window: Case, n_back: int) -> None:
    mixed = np.append(TOKENS[: N - n_back], OTHER[1:30])
    with window.session(n_ubatch=16) as session:
        session.eval(TOKENS)
        session.eval(mixed)
        assert session.n_reused() == N - n_back
        measure.assert_same(session.logits(), window.logits(mixed)[-1:])


def test_a_long_rollback_is_computed_from_the_start(window: Case) -> None:
    mixed = np.append(TOKENS[:200], OTHER[1:30])
    with window.session(n_ubatch=16) as session:
        session.eval(TOKENS)
        session.eval(mixed)
        assert session.n_reused() == 0
        measure.assert_same(session.logits(), window.logits(mixed)[-1:])


def test_a_forgotten_end_beyond_the_slack(window: Case) -> None:
    with window.session(n_ubatch=16) as session:
        session.eval(TOKENS)
        session.seq_rm(0, 300)
        session.eval(TOKENS)
        measure.assert_same(session.logits(), window.expected[-1:])


def test_sequences_take_over_each_others_expired_cells(window: Case) -> None:
    other = window.logits(OTHER)
    with window.session(n_seq_max=2, n_ubatch=16) as session:
        for n in range(100, N + 1, 100):
            session.eval(TOKENS[:n], seq_id=0)
            measure.assert_same(session.logits(), window.expected[n - 1 : n])
            session.eval(OTHER[:n], seq_id=1)
            measure.assert_same(session.logits(), other[n - 1 : n])
        session.seq_cp(0, 1)
        tail = np.append(TOKENS[:690], OTHER[1:40])
        session.eval(tail, seq_id=1)
        assert session.n_reused() == 690
        measure.assert_same(session.logits(), window.logits(tail)[-1:])
        session.eval(TOKENS, seq_id=0)
        measure.assert_same(session.logits(), window.expected[-1:])


def test_state_of_a_sequence_beyond_its_window(window: Case, tmp_path: Path) -> None:
    with window.session(n_ubatch=16) as first:
        first.eval(TOKENS[:N_PREFIX])
        first.save_state(tmp_path / "state")
    with window.session(n_ubatch=32) as second:
        second.load_state(tmp_path / "state")
        second.eval(TOKENS)
        assert second.n_reused() == N_PREFIX
        measure.assert_same(second.logits(), window.expected[-1:])
    with window.session(n_ubatch=32) as third:
        third.load_state(tmp_path / "state")
        mixed = np.append(TOKENS[: N_PREFIX - 30], OTHER[1:30])
        third.eval(mixed)
        assert third.n_reused() == N_PREFIX - 30
        measure.assert_same(third.logits(), window.logits(mixed)[-1:])


def test_a_cancelled_evaluation_goes_on_with_its_window(window: Case) -> None:
    with window.session(n_ubatch=16) as session:
        with pytest.raises(CancelledError):
            session.eval(TOKENS, progress=lambda n_done, _n_total: n_done < 320)
        held = session.seq_length()
        assert 320 <= held < N
        session.eval(TOKENS)
        assert session.n_reused() == held
        measure.assert_same(session.logits(), window.expected[-1:])


@pytest.mark.parametrize("n_keep", [300, 420])
def test_a_sequence_cut_beyond_the_slack_holds_nothing(window: Case, n_keep: int, tmp_path: Path) -> None:
    """What it would see is gone: it must neither be continued nor saved as if it were there."""
    with window.session(n_ubatch=16) as session:
        session.eval(TOKENS)
        session.seq_rm(0, n_keep)
        assert session.seq_length() == 0
        assert session.n_free == session.n_ctx
        with pytest.raises(ArgumentError, match="sequence 0 is empty"):
            session.save_state(tmp_path / "state")


def test_state_of_a_sequence_cut_within_the_slack(window: Case, tmp_path: Path) -> None:
    n_keep = N - 40
    with window.session(n_ubatch=16) as session:
        session.eval(TOKENS)
        session.seq_rm(0, n_keep)
        session.save_state(tmp_path / "state")
    with window.session(n_ubatch=16) as session:
        session.load_state(tmp_path / "state")
        session.eval(TOKENS)
        assert session.n_reused() == n_keep
        measure.assert_same(session.logits(), window.expected[-1:])
