"""NaN and infinities in a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

import shapes
from commandr_gguf.quantize import dequantize_rows
from convert.cli import main

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(params=["BF16", "F16", "F32"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    config = shapes.config_json("gqa", num_hidden_layers=1)
    values = shapes.normal(3, NAME, (config["intermediate_size"], config["hidden_size"]))
    values[1, 2], values[1, 3], values[-1, -1] = np.nan, np.inf, -np.inf
    return shapes.write_checkpoint(tmp_path / "c", "gqa", n_layers=1, dtype=request.param, replace={NAME: values})


@pytest.mark.parametrize("file_type", ["Q4_K_M", "Q8_0", "BF16", "F16", "F32"])
def test_they_are_refused_with_tensor_and_number(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file_type: str
) -> None:
    assert main([str(folder), "-o", str(tmp_path / "x.gguf"), "--type", file_type, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / 'model.safetensors'}: tensor {NAME} holds 3 values that are NaN or inf")
    assert error.endswith("--allow-nonfinite converts it nevertheless\n")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("file_type", ["Q8_0", "BF16", "F16", "F32"])
def test_they_are_kept_or_become_zero_when_allowed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file_type: str
) -> None:
    output = tmp_path / "x.gguf"
    assert main([str(folder), "-o", str(output), "--type", file_type, "--allow-nonfinite"]) == 0
    kept = file_type != "Q8_0"
    what = "they are kept" if kept else "they became 0"
    assert f"blk.0.ffn_up.weight holds 3 values that are NaN or infinite; {what}\n" in capsys.readouterr().err
    tensor = next(t for t in GGUFReader(output).tensors if t.name == "blk.0.ffn_up.weight")
    n_per_row = int(tensor.shape[0])
    data = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(int(tensor.shape[1]), -1)
    rows = dequantize_rows(tensor.tensor_type.name, data, n_per_row)
    found = rows[1, 2], rows[1, 3], rows[-1, -1]
    assert np.array_equal(found, (np.nan, np.inf, -np.inf) if kept else (0, 0, 0), equal_nan=True)
    assert np.isfinite(rows).sum() == rows.size - (3 if kept else 0)
