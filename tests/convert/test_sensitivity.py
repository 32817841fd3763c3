"""Files of `commandr sensitivity`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from convert.errors import ArgumentError
from convert.sensitivity import Probe, read_sensitivity

Q = "blk.0.attn_q.weight"


def content(**changes: Any) -> dict[str, Any]:
    return {
        "format": "commandr-sensitivity",
        "version": 1,
        "model": "tiny",
        "text_sha256": "00",
        "n_tokens": 100,
        "tensors": {Q: {"type": "Q4_K", "relative_error": 0.005, "kl": 0.25}},
    } | changes


def test_probes_by_tensor(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content()))
    found = read_sensitivity(path)
    assert (found.model, found.probes) == ("tiny", {Q: Probe("Q4_K", 0.005, 0.25)})
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_divergence_of_next_to_nothing_below_zero_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content(tensors={Q: {"type": "Q8_0", "relative_error": 1e-5, "kl": -1e-8}})))
    assert read_sensitivity(path).probes[Q].kl == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "s.json is not a file of 'commandr sensitivity': it is not JSON"),
        ("[]", "s.json is not a file of 'commandr sensitivity'"),
        (json.dumps(content(format="other")), "s.json is not a file of 'commandr sensitivity'"),
        (json.dumps(content(version=2)), "s.json has version 2; this program knows version 1"),
        (json.dumps(content(tensors={})), "s.json holds no tensors"),
        *(
            (json.dumps(content(tensors={Q: entry})), f"s.json: the entry of {Q} needs a type")
            for entry in (
                None,
                {},
                {"type": "Q4_K_M", "relative_error": 0.1, "kl": 1},
                {"type": "Q4_K", "relative_error": -0.1, "kl": 1},
                {"type": "Q4_K", "relative_error": True, "kl": 1},
                {"type": "Q4_K", "relative_error": 0.1, "kl": -1},
                {"type": "Q4_K", "relative_error": 0.1, "kl": float("nan")},
            )
        ),
    ],
)
def test_a_file_at_fault_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(ArgumentError, match=message):
        read_sensitivity(path)
