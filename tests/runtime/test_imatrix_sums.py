"""A session sums up the squared inputs of every weight matrix, over all tokens that it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import models
import shapes
from commandr_gguf.errors import ArgumentError, BackendError, CancelledError
from commandr_gguf.model import Model
from commandr_gguf.session import Session
from reference import Reference, checkpoint_name, read_gguf

TOKENS = np.r_[5, np.random.default_rng(7).integers(8, 600, 89)].astype(np.int32)
OPTIONS: dict[str, Any] = {"n_ctx": 128, "n_threads": 1, "imatrix": True, "type_k": "f32", "type_v": "f32"}

Sums = dict[str, npt.NDArray[np.float64]]


def sums_of(model: Model, session: Session, n_tokens: int) -> Sums:
    """The sums of every matrix by name."""
    found = {}
    for tensor in model.gguf.tensors:
        if len(tensor.shape) == 2 and "_norm" not in tensor.name:
            found[tensor.name], n = session.imatrix_sums(tensor.name, tensor.shape[0])
            assert n == n_tokens
    return found


def collected(path: Path, *, n_ubatch: int = 512, n_outputs: int = 0, repack: bool = True) -> Sums:
    with Model(path, repack=repack) as model, Session(model, n_ubatch=n_ubatch, **OPTIONS) as session:
        session.eval(TOKENS, n_outputs=n_outputs)
        return sums_of(model, session, len(TOKENS))


def expected(shape: str, file_type: str) -> Sums:
    """Of the numpy model, with the weights of the file."""
    path = models.gguf(shape, file_type)
    reference = Reference(models.checkpoint(shape), weights=read_gguf(path))
    reference.logits(TOKENS)
    with Model(path) as model:
        names = {tensor.name: checkpoint_name(tensor.name) for tensor in model.gguf.tensors}
    return {
        name: (reference.inputs[theirs] ** 2).sum(axis=0)
        for name, theirs in names.items()
        if theirs in reference.inputs
    }


def assert_close(ours: Sums, theirs: Sums, tolerance: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, sums in ours.items():
        assert np.abs(sums / theirs[name] - 1).max() < tolerance, name


@pytest.mark.parametrize("n_ubatch", [1, 7, 512])
@pytest.mark.parametrize("shape", models.SHAPES)
def test_sums_are_those_of_numpy_for_every_matrix(shape: str, n_ubatch: int) -> None:
    theirs = expected(shape, "F32")
    assert len(theirs) == 7 * shapes.SHAPES[shape]["num_hidden_layers"] + 1
    assert_close(collected(models.gguf(shape), n_ubatch=n_ubatch), theirs, 1e-4)


@pytest.mark.parametrize("repack", [False, True])
def test_packed_weights_see_the_inputs_unrounded(repack: bool) -> None:
    """The first layer's inputs do not depend on its own products; further on their rounding shows."""
    theirs = expected("gqa", "Q8_0")
    ours = collected(models.gguf("gqa", "Q8_0"), repack=repack)
    assert_close(ours, theirs, 0.1)
    assert_close(
        {"blk.0.attn_q.weight": ours["blk.0.attn_q.weight"]}, {k: theirs[k] for k in ["blk.0.attn_q.weight"]}, 1e-5
    )


@pytest.mark.parametrize("n_outputs", [1, 30, 90])
def test_all_tokens_count_whatever_outputs_are_asked_for(n_outputs: int) -> None:
    path = models.gguf("gqa")
    assert_close(collected(path, n_outputs=n_outputs), collected(path), 1e-5)


def test_outputs_are_the_same_while_sums_are_collected() -> None:
    rows = []
    for imatrix in (False, True):
        with Model(models.gguf("cohere2")) as model, Session(model, **OPTIONS | {"imatrix": imatrix}) as session:
            session.eval(TOKENS, n_outputs=20, hidden=True)
            rows.append((session.logits(), session.hidden()))
    assert np.array_equal(rows[0][0], rows[1][0])
    assert np.array_equal(rows[0][1], rows[1][1])


def test_evaluations_add_up_and_reused_tokens_do_not_count_again() -> None:
    with Model(models.gguf("gqa")) as model, Session(model, **OPTIONS) as session:
        session.eval(TOKENS[:40], n_outputs=0)
        session.eval(TOKENS, n_outputs=0)
        once = sums_of(model, session, len(TOKENS))
        assert_close(once, collected(models.gguf("gqa")), 1e-4)
        session.seq_rm(0)
        session.eval(TOKENS, n_outputs=0)
        twice = sums_of(model, session, 2 * len(TOKENS))
    assert_close(twice, {name: 2 * sums for name, sums in once.items()}, 1e-4)


def test_a_cancelled_evaluation_has_added_the_graphs_that_it_finished() -> None:
    def stop(n_done: int, _: int) -> bool:
        return n_done < 20

    with Model(models.gguf("gqa")) as model, Session(model, n_ubatch=10, **OPTIONS) as session:
        with pytest.raises(CancelledError):
            session.eval(TOKENS, n_outputs=0, progress=stop)
        sums_of(model, session, 20)


def test_an_infinite_input_is_named_and_adds_nothing(tmp_path: Path) -> None:
    """The square of 1e20 is beyond float32."""
    name = "model.layers.2.mlp.up_proj.weight"
    weights = dict(shapes.tensors(shapes.SHAPES["gqa"], 0))
    checkpoint = shapes.write_checkpoint(
        tmp_path / "checkpoint", "gqa", dtype="F32", replace={name: weights[name] * np.float32(1e20)}
    )
    path = models.convert(checkpoint, tmp_path / "model.gguf", "F32")
    with Model(path) as model, Session(model, **OPTIONS) as session:
        with pytest.raises(BackendError, match=r"column \d+ of the input of blk\.2\.ffn_down\.weight is not finite"):
            session.eval(TOKENS)
        assert all(not sums.any() for sums in sums_of(model, session, 0).values())


def test_wrong_questions_are_answered_with_what_is_wrong() -> None:
    with Model(models.gguf("gqa")) as model:
        with Session(model, **OPTIONS) as session:
            with pytest.raises(ArgumentError, match=r"no matrix blk\.0\.attn_norm\.weight"):
                session.imatrix_sums("blk.0.attn_norm.weight", 256)
            with pytest.raises(ArgumentError, match=r"blk\.0\.ffn_down\.weight has 512 columns, not 256"):
                session.imatrix_sums("blk.0.ffn_down.weight", 256)
        with (
            Session(model, **OPTIONS | {"imatrix": False}) as session,
            pytest.raises(ArgumentError, match="not made to collect"),
        ):
            session.imatrix_sums("blk.0.ffn_down.weight", 512)
