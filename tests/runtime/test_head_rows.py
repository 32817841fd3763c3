"""Logits of the few tokens that a mask allows: the same bits as from the whole head, and nothing else computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import models
import shapes
from commandr_gguf import ArgumentError, EvalItem, Model, Session, allowed_mask
from commandr_gguf._native import lib

N_VOCAB = 8200  # 512 groups of 16 rows, and 8 rows that belong to none
TOKENS = [5, *np.random.default_rng(3).integers(8, 600, 40).tolist()]
RNG = np.random.default_rng(5)
FEW = sorted(RNG.choice(8192, 12, replace=False).tolist())
MORE = sorted(RNG.choice(8192, 100, replace=False).tolist())
MANY = sorted(RNG.choice(8192, 2000, replace=False).tolist())
OPTIONS: dict[str, Any] = {"n_ctx": 256, "n_threads": 2, "n_ubatch": 16}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its embedding is large, so that logits show which rows were multiplied."""
    folder = tmp_path_factory.mktemp("head")
    return shapes.write_checkpoint(folder / "checkpoint", "gqa", n_layers=1, vocab_size=N_VOCAB)


@pytest.fixture(scope="module")
def q4(checkpoint: Path) -> Path:
    return models.convert(checkpoint, checkpoint.parent / "Q4_K_M.gguf", "Q4_K_M")


def logits(session: Session, n_outputs: int, tokens: list[int] | None) -> npt.NDArray[np.float32]:
    """Of the last n_outputs tokens of TOKENS, with the mask of some or without, in the same batches each time."""
    session.seq_rm(0)
    mask = None if tokens is None else allowed_mask(N_VOCAB, tokens)
    session.eval_batch([EvalItem(TOKENS, 0, n_outputs, mask)])
    return session.logits()


def computed(rows: npt.NDArray[np.float32]) -> set[int]:
    """The tokens of which any row has a logit."""
    return set(np.flatnonzero(np.isfinite(rows).any(axis=0)).tolist())


def groups(tokens: list[int]) -> set[int]:
    """All tokens of the groups of 16 in which these are."""
    return {16 * (token // 16) + i for token in tokens for i in range(16)}


@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("file_type", ["F32", "BF16", "F16", "Q8_0", "Q6_K", "Q4_K_M", "Q5_K_M", "Q4_0"])
def test_logits_of_allowed_tokens_are_those_of_the_whole_head(checkpoint: Path, file_type: str, repack: bool) -> None:
    path = models.convert(checkpoint, checkpoint.parent / f"{file_type}.gguf", file_type)
    with Model(path, repack=repack) as model, Session(model, **OPTIONS) as session:
        for n_outputs in (1, 2, 5, 16, 20):
            whole = logits(session, n_outputs, None)
            for tokens in (FEW, MORE, FEW[:1]):
                some = logits(session, n_outputs, tokens)
                assert np.array_equal(some[:, tokens], whole[:, tokens])
                assert computed(some) == groups(tokens)
        assert np.array_equal(logits(session, 2, None), whole[-2:])  # nothing is left of the masks


@pytest.mark.parametrize("tokens", [MANY, [*FEW, N_VOCAB - 1], []], ids=["many", "in no whole group", "none"])
def test_all_logits_are_computed_where_a_list_does_not_pay(q4: Path, tokens: list[int]) -> None:
    with Model(q4) as model, Session(model, **OPTIONS) as session:
        assert np.array_equal(logits(session, 3, tokens), logits(session, 3, None))


def test_a_mask_saves_work_up_to_the_number_of_tokens_that_the_model_names(q4: Path) -> None:
    with Model(q4) as model, Session(model, **OPTIONS) as session:
        most = lib.commandr_model_max_masked(model.pointer)
        assert computed(logits(session, 1, list(range(most)))) == set(range(most))
        assert computed(logits(session, 1, list(range(most + 1)))) == set(range(N_VOCAB))


def test_a_small_vocabulary_is_computed_as_a_whole() -> None:
    with Model(models.gguf("gqa", "Q4_K_M")) as model, Session(model, **OPTIONS) as session:
        assert lib.commandr_model_max_masked(model.pointer) == 0
        session.eval_batch([EvalItem(TOKENS, 0, 1, allowed_mask(model.hparams.n_vocab, [9]))])
        assert np.isfinite(session.logits()).all()


def test_what_any_item_needs_is_computed_for_all(q4: Path) -> None:
    masks = [allowed_mask(N_VOCAB, FEW), allowed_mask(N_VOCAB, MORE)]
    with Model(q4) as model, Session(model, **OPTIONS, n_seq_max=3) as session:
        session.eval_batch([EvalItem(TOKENS, 0, 2), EvalItem(TOKENS[:30], 1, 3)])
        whole = session.logits(0), session.logits(1)
        for third in (EvalItem(TOKENS[:9], 2, 0), EvalItem(TOKENS[:9], 2, 1)):
            session.eval_batch([EvalItem(TOKENS, 0, 2, masks[0]), EvalItem(TOKENS[:30], 1, 3, masks[1]), third])
            both = groups([*FEW, *MORE]) if third.n_outputs == 0 else set(range(N_VOCAB))
            for item in range(2):
                assert computed(session.logits(item)) == both
                assert np.array_equal(session.logits(item)[:, FEW], whole[item][:, FEW])
                assert np.array_equal(session.logits(item)[:, MORE], whole[item][:, MORE])


def test_hidden_states_come_with_a_mask_as_without(q4: Path) -> None:
    with Model(q4) as model, Session(model, **OPTIONS) as session:
        session.eval(TOKENS, n_outputs=3, hidden=True)
        expected = session.hidden()
        session.eval_batch([EvalItem(TOKENS, 0, 3, allowed_mask(N_VOCAB, FEW))], hidden=True)
        assert np.array_equal(session.hidden(), expected)
        assert computed(session.logits()) == groups(FEW)


@pytest.mark.parametrize("n_ubatch", [1, 2, 16, 512])
def test_masks_need_no_memory_beyond_what_a_session_allocates_at_its_start(q4: Path, n_ubatch: int) -> None:
    with Model(q4) as model, Session(model, n_ctx=256, n_threads=1, n_ubatch=n_ubatch) as session:
        before = [use.size for use in session.memory() if use.what == "compute"]
        for tokens in (MORE, FEW, None):
            logits(session, 1, tokens)
            logits(session, min(n_ubatch, len(TOKENS)), tokens)
            assert [use.size for use in session.memory() if use.what == "compute"] == before


def test_a_mask_of_another_vocabulary_is_refused(q4: Path) -> None:
    with Model(q4) as model, Session(model, **OPTIONS) as session:
        session.eval(TOKENS[:5])
        with pytest.raises(ArgumentError, match="mask must be uint32 words for 8200 tokens"):
            session.eval_batch([EvalItem(TOKENS, 0, 1, allowed_mask(N_VOCAB + 64, FEW))])
        assert session.seq_tokens() == TOKENS[:5]


def test_a_prompts_tokens_need_no_room_for_logits(q4: Path) -> None:
    with Model(q4) as model, Session(model, n_ctx=512, n_threads=1, n_ubatch=512, n_outputs=1) as session:
        (before,) = (use.size for use in session.memory() if use.what == "compute")
        assert before < 512 * N_VOCAB * 4 / 2
        session.eval(np.resize(TOKENS, 500))
        assert session.logits().shape == (1, N_VOCAB)
        assert [use.size for use in session.memory() if use.what == "compute"] == [before]
