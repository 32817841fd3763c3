"""Weights of a loaded model can be overwritten, to measure what another choice of their values does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import models
import shapes
from commandr_gguf.errors import ArgumentError, UnsupportedError
from commandr_gguf.model import Model
from commandr_gguf.session import Session

TOKENS = np.r_[5, np.random.default_rng(3).integers(8, 600, 20)].astype(np.int32)
NAMES = ("token_embd.weight", "output_norm.weight", "blk.2.attn_v.weight", "blk.3.ffn_down.weight")


def logits(model: Model) -> npt.NDArray[np.float32]:
    with Session(model, n_ctx=32, n_threads=1) as session:
        session.eval(TOKENS)
        return session.logits()


def data_of(path: Path, name: str) -> npt.NDArray[np.uint8]:
    with Model(path) as model:
        tensor = next(tensor for tensor in model.gguf.tensors if tensor.name == name)
    return np.fromfile(path, np.uint8, tensor.size, offset=tensor.offset)


@pytest.mark.parametrize("file_type", ["F32", "Q4_K_M"])
def test_a_model_computes_with_the_new_values(file_type: str) -> None:
    path = models.gguf("gqa", file_type)
    with Model(path, use_mmap=False, repack=False) as model:
        before = logits(model)
        for name in NAMES:
            data = data_of(path, name)
            model.set_tensor(name, np.zeros_like(data))
            assert not np.allclose(logits(model), before), name
            model.set_tensor(name, data.tobytes())
            assert np.array_equal(logits(model), before), name


def test_another_models_weights_make_it_that_model(tmp_path: Path) -> None:
    """Every tensor replaced by the one of another file gives the other file's logits."""
    checkpoint = shapes.write_checkpoint(tmp_path / "other", "gqa", seed=1)
    other = models.convert(checkpoint, tmp_path / "other.gguf", "F32")
    with Model(models.gguf("gqa"), use_mmap=False, repack=False) as model:
        for tensor in model.gguf.tensors:
            model.set_tensor(tensor.name, data_of(other, tensor.name).view(np.float32))
        with Model(other, use_mmap=False, repack=False) as expected:
            assert np.array_equal(logits(model), logits(expected))


@pytest.mark.parametrize(("use_mmap", "repack", "what"), [(True, False, "mapped"), (False, True, "packed")])
def test_weights_that_are_no_plain_copy_are_refused(use_mmap: bool, repack: bool, what: str) -> None:
    path = models.gguf("gqa", "Q4_K_M")
    with Model(path, use_mmap=use_mmap, repack=repack) as model:
        before = logits(model)
        size = data_of(path, "blk.0.ffn_up.weight").size
        with pytest.raises(
            UnsupportedError, match=rf"blk\.0\.ffn_up\.weight is (re)?{what}; .* without mmap and repack"
        ):
            model.set_tensor("blk.0.ffn_up.weight", bytes(size))
        assert np.array_equal(logits(model), before)


def test_wrong_names_and_sizes_are_named() -> None:
    with Model(models.gguf("gqa"), use_mmap=False, repack=False) as model:
        with pytest.raises(ArgumentError, match=r"no tensor blk\.9\.attn_q\.weight"):
            model.set_tensor("blk.9.attn_q.weight", bytes(4))
        with pytest.raises(ArgumentError, match=r"output_norm\.weight has 1024 bytes, not 1020"):
            model.set_tensor("output_norm.weight", np.zeros(255, np.float32))
        with pytest.raises(ArgumentError, match="name must be a string"):
            model.set_tensor(b"output_norm.weight", bytes(1024))  # type: ignore[arg-type]
