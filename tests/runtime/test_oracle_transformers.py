"""Checkpoints that transformers writes and evaluates on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest

import bounds
import measure
import models
import oracles
from commandr_gguf.model import Model
from commandr_gguf.session import EvalItem, Session

pytestmark = pytest.mark.oracle

Oracle = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module", params=models.SHAPES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Oracle]:
    """A checkpoint folder and what transformers computes with it."""
    folder = tmp_path_factory.mktemp("transformers") / request.param
    shards = {"shard_size": "1MB"} if request.param == "gqa" else {}
    return folder, oracles.transformers_checkpoint(request.param, folder, **shards)


@pytest.mark.parametrize("transformers_4", [False, True])
def test_the_committed_logits_are_still_those_of_transformers(transformers_4: bool) -> None:
    oracles.run(models.GOLDEN / "write.py", "--check", transformers_4=transformers_4)


def test_f32_file(case: tuple[Path, Oracle]) -> None:
    folder, oracle = case
    tokens, n = oracle["tokens"], len(oracle["tokens"])
    file = models.convert(folder, folder.with_suffix(".f32.gguf"), "F32")
    with Model(file) as model:
        for n_ubatch in (1, 7, 512):
            for flash_attn in (False, True):
                with Session(
                    model,
                    n_ctx=512,
                    n_ubatch=n_ubatch,
                    n_threads=1,
                    type_k="f32",
                    type_v="f32",
                    flash_attn=flash_attn,
                ) as session:
                    session.eval(tokens, n_outputs=n, hidden=True)
                    measure.assert_same(session.logits(), oracle["logits"])
                    assert measure.relative_error(session.hidden(), oracle["hidden"]) < 1e-3


def test_f32_file_after_every_change_of_a_sequence(case: tuple[Path, Oracle], tmp_path: Path) -> None:
    folder, oracle = case
    tokens, logits = oracle["tokens"], oracle["logits"]
    file = models.convert(folder, folder.with_suffix(".f32.gguf"), "F32")
    options: dict[str, Any] = {"n_ctx": 1024, "n_seq_max": 3, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    with Model(file) as model, Session(model, **options) as session:
        session.eval_batch([EvalItem(tokens[:200], 0, 50), EvalItem(tokens[:90], 1, 90)])
        measure.assert_same(session.logits(0), logits[150:200])
        measure.assert_same(session.logits(1), logits[:90])
        session.seq_cp(0, 2)
        session.seq_rm(2, 60)
        session.eval_batch([EvalItem(tokens, 2, 240), EvalItem(tokens[:201], 0), EvalItem(tokens[:91], 1)])
        measure.assert_same(session.logits(0), logits[60:])
        measure.assert_same(session.logits(1), logits[200:201])
        measure.assert_same(session.logits(2), logits[90:91])
        session.save_state(tmp_path / "state", 0)
        session.seq_rm(0)
        session.load_state(tmp_path / "state", 1)
        session.eval(tokens, seq_id=1, n_outputs=99)
        assert session.n_reused() == 201
        measure.assert_same(session.logits(), logits[201:])


@pytest.mark.parametrize("file_type", ["BF16", "Q8_0", "Q4_K"])
def test_smaller_files(case: tuple[Path, Oracle], file_type: str) -> None:
    folder, oracle = case
    file = models.convert(folder, folder.with_suffix(f".{file_type}.gguf"), file_type)
    with Model(file) as model, Session(model, n_ctx=512, n_threads=1) as session:
        session.eval(oracle["tokens"], n_outputs=len(oracle["tokens"]))
        assert measure.kl_divergence(session.logits(), oracle["logits"]) < bounds.from_transformers(
            folder.name, file_type
        )
