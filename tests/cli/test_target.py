"""From a measured sensitivity to a file of a chosen size, by the two commands that a user gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commandr_gguf.cli import main as commandr
from commandr_gguf.demo.embedded import CHECKPOINT
from convert.cli import main as convert

TEXT = Path(__file__).parents[2] / "README.md"


@pytest.mark.timeout(600)
def test_measured_sensitivity_makes_a_file_that_diverges_less_than_the_rule_of_thumb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, sensitivity = tmp_path / "full.gguf", tmp_path / "s.json"
    assert convert([str(CHECKPOINT), "-o", str(full), "--type", "BF16", "--quiet"]) == 0
    assert commandr(["sensitivity", str(full), str(TEXT), "-o", str(sensitivity), "--chunks", "2", "--ctx", "128"]) == 0
    for name, options in (("thumb", []), ("measured", ["--sensitivity", str(sensitivity)])):
        output = str(tmp_path / f"{name}.gguf")
        assert convert([str(CHECKPOINT), "-o", output, "--target-bpw", "4.2", "--quiet", *options]) == 0
    capsys.readouterr()
    divergence = {}
    for name in ("thumb", "measured"):
        command = ["compare", str(full), str(tmp_path / f"{name}.gguf"), "--text", str(TEXT), "--json", "--ctx", "128"]
        assert commandr([*command, "--chunks", "8"]) == 0
        divergence[name] = capsys.readouterr().out
    kl = {name: json.loads(text)["text"]["kl_mean"] for name, text in divergence.items()}
    assert kl["measured"] < 0.9 * kl["thumb"]
