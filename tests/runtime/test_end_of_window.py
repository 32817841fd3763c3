"""Logits thousands of positions into a sequence: against transformers at 8K, beyond that against tests/reference.py."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import long_models
import measure
import models
from commandr_gguf import Model, Session
from reference import Array, Reference, exact_angles

every_shape = pytest.mark.parametrize("shape", models.SHAPES)

# ---- 8K


@functools.cache
def golden() -> dict[str, npt.NDArray[Any]]:
    return dict(np.load(models.GOLDEN / "long.npz"))


@functools.cache
def golden_checkpoint(shape: str) -> Path:
    n_layers = 4 if shape == "cohere2" else 2
    folder = long_models.write_checkpoint(models.folder() / f"8k-{shape}", shape, num_hidden_layers=n_layers)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    expected = golden()[f"{shape}_weights_sha256"].item()
    assert digest == expected, "long_models.py changed: run tests/golden/write_long.py"
    return folder


@every_shape
@pytest.mark.parametrize("flash_attn", [False, True])
def test_8k_tokens_are_as_in_transformers(shape: str, flash_attn: bool) -> None:
    path = models.convert(golden_checkpoint(shape), models.folder() / f"8k-{shape}.gguf", "F32")
    tokens, positions = golden()["tokens"].astype(np.int32), golden()["positions"]
    logits = evaluate(path, tokens, positions, flash_attn=flash_attn, n_ubatch=512 if flash_attn else 256)
    measure.assert_same(logits, golden()[f"{shape}_logits"])


@every_shape
def test_the_reference_is_as_transformers_at_8k(shape: str) -> None:
    logits = Reference(golden_checkpoint(shape)).logits(golden()["tokens"], golden()["positions"])
    measure.assert_same(logits, golden()[f"{shape}_logits"])


# ---- 32K to 128K

DEPTHS = (32768, 65536, 131072)
N_AT = 32  # positions before each depth
EXACT_BASE = 65536.0
"""A base of RoPE for which all frequencies are powers of two, of heads of 16 and 32 dimensions: float32 has all angles
exactly, and nothing but sums is rounded. Of other bases the error of an angle grows with the position."""


def chunk_edges(n: int) -> list[int]:
    """The first and last cells of the chunks that our attention cuts n cells into."""
    begins, size = [0], 256
    while begins[-1] < n:
        for _ in range(16):
            begins.append(begins[-1] + size)
        size *= 2
    return [cell for begin in begins[1:] if begin < n for cell in (begin - 1, begin)]


AT = np.concatenate([np.arange(depth - N_AT, depth) for depth in DEPTHS])
# Half of the positions that are looked at are marks, which look for the other marks.
MARKED = sorted({*chunk_edges(DEPTHS[-1]), *AT[1::2].tolist()})
TOKENS = long_models.tokens(DEPTHS[-1], MARKED)


def evaluate(
    path: Path, tokens: npt.NDArray[np.int32], positions: Sequence[int] | npt.NDArray[Any], **options: Any
) -> npt.NDArray[np.float32]:
    """[len(positions), n_vocab]. Positions that follow each other are outputs of one evaluation, but for the last two
    of them, which are computed one by one."""
    defaults: dict[str, Any] = {"n_ctx": len(tokens), "n_threads": 2, "type_k": "f32", "type_v": "f32"}
    runs = np.split(np.asarray(positions), np.flatnonzero(np.diff(positions) != 1) + 1)
    rows = []
    with Model(path) as model, Session(model, **(defaults | options)) as session:
        for run in runs:
            n_together = max(1, len(run) - 2)
            for end, n in [(n_together, n_together), *((i + 1, 1) for i in range(n_together, len(run)))]:
                length = int(run[end - 1]) + 1
                session.eval(tokens[:length], n_outputs=n)
                rows.append(session.logits())
    return np.concatenate(rows)


@every_shape
def test_128k_tokens(shape: str, tmp_path: Path) -> None:
    checkpoint = long_models.write_checkpoint(tmp_path / "checkpoint", shape, rope_theta=EXACT_BASE)
    path = models.convert(checkpoint, tmp_path / "model.gguf", "F32")
    expected = Reference(checkpoint).logits(TOKENS, AT)
    options: dict[str, Any]
    for options, bound in (
        ({}, 5e-5),  # standard deviations; measured up to 5e-6
        ({"n_ubatch": 96, "flash_attn": False}, 5e-5),
        ({"type_k": "f16", "type_v": "f16"}, 1e-2),  # measured up to 5e-3
    ):
        logits = evaluate(path, TOKENS, AT, **options)
        for i, depth in enumerate(DEPTHS):
            rows = slice(i * N_AT, (i + 1) * N_AT)
            error = measure.relative_error(logits[rows], expected[rows])
            assert error < bound, f"before position {depth}, {options}: {error:.1e}"


def float32_angles(positions: npt.NDArray[np.int64], theta: float, dim: int) -> Array:
    """As transformers computes them."""
    frequencies = (1.0 / np.float32(theta) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))).astype("f4")
    result: Array = (positions.astype(np.float32)[:, None] * frequencies).astype(np.float64)
    return result


@pytest.mark.parametrize(("shape", "n"), [("v01", 131072), ("gqa", 131072), ("r_plus", 131072), ("cohere2", 32768)])
def test_angles_are_as_exact_as_those_of_transformers(shape: str, n: int, tmp_path: Path) -> None:
    """With the published bases of RoPE."""
    checkpoint = long_models.write_checkpoint(tmp_path / "checkpoint", shape)
    at = np.arange(n - N_AT, n)
    expected, rounded = (
        Reference(checkpoint, angles=of).logits(TOKENS[:n], at) for of in (exact_angles, float32_angles)
    )
    logits = evaluate(models.convert(checkpoint, tmp_path / "model.gguf", "F32"), TOKENS[:n], at)
    error, usual = (measure.relative_error(rows, expected) for rows in (logits, rounded))
    assert error < 3 * usual < 0.1
