"""Written files beside their checkpoints: errors that a type explains, and those that nothing does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import adapters
import shapes
from convert.errors import VerifyError
from convert.gguf_header import read_gguf_header
from convert.hf_model import read_hf_model
from convert.imatrix import ImportanceMatrix
from convert.inputs import read_input
from convert.pipeline import write_plan
from convert.plan import Plan, make_plan
from convert.provenance import provenance_keys
from convert.quantize import convert_rows, to_floats
from convert.recipe import file_type
from convert.verify import describe_errors, verify

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.write_checkpoint(tmp_path_factory.mktemp("verify") / "model", "gqa", n_layers=1)


def written(checkpoint: Path, out: Path, name: str) -> Plan:
    plan = make_plan(read_hf_model(checkpoint), file_type(name))
    write_plan(plan, out)
    return plan


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("F32", 0, 0), ("F16", 0, 2e-4), ("BF16", 0, 0), ("Q8_0", 0.003, 0.01), ("Q4_K_M", 0.05, 0.1), ("Q2_K", 0.2, 0.4)],
)
def test_errors_are_those_of_the_types(tmp_path: Path, checkpoint: Path, name: str, low: float, high: float) -> None:
    plan = written(checkpoint, tmp_path / "a.gguf", name)
    errors = verify(plan, [tmp_path / "a.gguf"], n_threads=2)
    assert [error.name for error in errors] == [tensor.name for tensor in plan.tensors]
    assert all(error.is_sound for error in errors)
    found = {error.name: error.error for error in errors}
    assert low <= found["blk.0.ffn_up.weight"] <= high
    assert found["output_norm.weight"] == 0


def test_an_error_is_that_of_the_values(tmp_path: Path, checkpoint: Path) -> None:
    plan = written(checkpoint, tmp_path / "a.gguf", "Q4_0")
    error = next(e for e in verify(plan, [tmp_path / "a.gguf"]) if e.name == "blk.0.attn_k.weight")
    values = dict(shapes.tensors(shapes.config_json("gqa", num_hidden_layers=1), 0))
    bits = np.frombuffer(shapes.encode(values["model.layers.0.self_attn.k_proj.weight"], "BF16"), "<u2")
    x = (bits.astype(np.uint32) << 16).view(np.float32).reshape(-1, 256)
    y = to_floats("Q4_0", convert_rows("F32", x.view(np.uint8), "Q4_0", 256)[0], 256)
    assert error.error == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x), rel=1e-5)
    assert error.largest == pytest.approx(np.abs(y - x).max(), rel=1e-6)


def test_merged_adapters_are_part_of_what_is_expected(tmp_path: Path) -> None:
    base = shapes.write_checkpoint(tmp_path / "base", "gqa", n_layers=2)
    adapter = adapters.write_adapter(tmp_path / "adapter")
    model = read_input(str(base), adapters=[str(adapter)])
    plan = make_plan(model, file_type("F32"))
    write_plan(plan, tmp_path / "a.gguf", n_threads=1)
    assert all(error.error == 0 for error in verify(plan, [tmp_path / "a.gguf"], n_threads=2))
    changed = {tensor.name for tensor in model.tensors if tensor.delta is not None}
    wrong = {e.name for e in verify(make_plan(read_hf_model(base), file_type("F32")), [tmp_path / "a.gguf"]) if e.error}
    assert wrong == changed == {"blk.1.attn_q.weight", "blk.0.ffn_down.weight"}


@pytest.mark.parametrize("name", ["F32", "Q8_0", "Q4_K_M", "Q3_K_M"])
def test_a_single_wrong_byte_is_found(tmp_path: Path, checkpoint: Path, name: str) -> None:
    path = tmp_path / "a.gguf"
    plan = written(checkpoint, path, name)
    place = next(t for t in read_gguf_header(path).tensors if t.name == "blk.0.attn_k.weight")
    data = bytearray(path.read_bytes())
    data[place.offset + place.n_bytes - 7] ^= 1
    path.write_bytes(data)
    errors = verify(plan, [path], n_threads=2)
    assert [error.name for error in errors if not error.is_sound] == [place.name]
    lines = list(describe_errors(errors))
    assert next(line for line in lines if "not what it was made from" in line).startswith(place.name)
    assert lines[-1].startswith("1 of 10 tensors are wrong")


@pytest.mark.parametrize("name", ["IQ3_S", "Q2_K", "Q4_0"])
def test_a_tensor_of_zeros_is_found(tmp_path: Path, checkpoint: Path, name: str) -> None:
    path = tmp_path / "a.gguf"
    model = read_hf_model(checkpoint)
    weights = {tensor.name: np.ones(tensor.source.n_per_row, np.float32) for tensor in model.tensors}
    plan = make_plan(model, file_type(name), imatrix=ImportanceMatrix(Path("x"), weights, (), 1, ""))
    write_plan(plan, path)
    place = next(t for t in read_gguf_header(path).tensors if t.name == "blk.0.ffn_up.weight")
    data = bytearray(path.read_bytes())
    data[place.offset : place.offset + place.n_bytes] = bytes(place.n_bytes)
    path.write_bytes(data)
    assert [error.name for error in verify(plan, [path]) if not error.is_sound] == [place.name]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda data: data[:-100], "the file is damaged: .*ends inside tensor"),
        (lambda data: data.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"), "attn_q.weight is not there as"),
    ],
)
def test_a_damaged_file_is_an_error(
    tmp_path: Path, checkpoint: Path, damage: Callable[[bytes], bytes], sentence: str
) -> None:
    path = tmp_path / "a.gguf"
    plan = written(checkpoint, path, "Q8_0")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(VerifyError, match=sentence):
        verify(plan, [path])


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_line_merges_converts_and_verifies(tmp_path: Path) -> None:
    base = shapes.write_checkpoint(tmp_path / "base", "gqa", n_layers=2)
    adapter = adapters.write_adapter(tmp_path / "tuned")
    done = run(base, "--lora", adapter, "--type", "Q4_K_M", "-o", tmp_path / "a.gguf", "--verify")
    assert done.returncode == 0, done.stderr
    assert "merged the adapter tuned" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("all 18 tensors are sound")
    again = run(tmp_path / "a.gguf", "--type", "Q8_0", "-o", tmp_path / "b.gguf")
    assert again.returncode == 2
    assert "--allow-requantize" in again.stderr
    assert not (tmp_path / "b.gguf").exists()
    keys = read_gguf_header(tmp_path / "a.gguf").keys
    assert keys["commandr.convert.source"].value == "base"
    assert keys["commandr.convert.type"].value == "Q4_K_M"
    assert keys["commandr.convert.lora"].value.startswith("tuned sha256:")


def test_files_tell_how_they_were_made_and_nothing_of_the_machine(tmp_path: Path, checkpoint: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        written(checkpoint, tmp_path / name, "Q8_0")
    data = (tmp_path / "a.gguf").read_bytes()
    assert data == (tmp_path / "b.gguf").read_bytes()
    assert str(checkpoint.parent).encode() not in data
    imatrix = ImportanceMatrix(Path("/home/x.gguf"), {"a": np.ones(1, np.float32)}, ("/home/one.txt",), 100, "ab" * 32)
    keys = provenance_keys({"source": "model", "revision": "0123"}, "Q4_K_M", {"a": "Q8_0"}, imatrix)
    values = {name: value.value for name, value in keys.items()}
    assert values.pop("commandr.convert.version")
    assert values == {
        "commandr.convert.source": "model",
        "commandr.convert.revision": "0123",
        "commandr.convert.type": "Q4_K_M",
        "commandr.convert.own_types_count": 1,
        "commandr.convert.imatrix.sha256": "ab" * 32,
        "quantize.imatrix.file": "x.gguf",
        "quantize.imatrix.dataset": "one.txt",
        "quantize.imatrix.entries_count": 1,
        "quantize.imatrix.chunks_count": 100,
    }
