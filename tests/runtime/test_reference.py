"""The numpy reference agrees with the logits that transformers wrote."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import shapes
from reference import Reference

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_reference_agrees_with_transformers(shape: str, tmp_path: Path) -> None:
    golden = np.load(GOLDEN / f"{shape}.npz")
    checkpoint = shapes.write_checkpoint(tmp_path, shape)
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert digest == golden["weights_sha256"].item(), "shapes.py changed: run tests/golden/write.py"

    reference = Reference(checkpoint)
    for name in "ab":
        logits = reference.logits(golden[f"tokens_{name}"])[golden[f"positions_{name}"]]
        expected = golden[f"logits_{name}"]
        assert np.abs(logits - expected).max() < 1e-4 * expected.std()
    hidden = reference.hidden(golden["tokens_a"])[-len(golden["hidden_a"]) :]
    assert np.abs(hidden - golden["hidden_a"]).max() < 1e-4 * golden["hidden_a"].std()
