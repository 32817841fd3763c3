"""`python -m convert` with an importance matrix, own choices of types and targets."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

import shapes
from convert.cli import main
from convert.recipe import is_norm


@pytest.fixture(scope="module", autouse=True)
def _signals() -> Iterator[None]:
    """The command handles some for the rest of its process, which here is that of all tests."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.write_checkpoint(tmp_path_factory.mktemp("types") / "tiny", "gqa", n_layers=2)


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> gguf.GGUFReader:
    path = checkpoint.with_name("plain.gguf")
    assert main([str(checkpoint), "-o", str(path), "--type", "Q4_K_M", "-q"]) == 0
    return gguf.GGUFReader(path)


@pytest.fixture(scope="module")
def imatrix(plain: gguf.GGUFReader, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("types") / "x.imatrix.gguf"
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_type("imatrix")
    random = np.random.default_rng(0)
    for tensor in plain.tensors:
        if tensor.name.startswith("blk.") and not is_norm(tensor.name, tensor.shape.tolist()):
            sums = random.standard_normal((1, int(tensor.shape[0])), np.float32) ** 2
            writer.add_tensor(f"{tensor.name}.in_sum2", sums)
            writer.add_tensor(f"{tensor.name}.counts", np.ones((1, 1), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def file_type(path: Path) -> int:
    number: int = gguf.GGUFReader(path).fields["general.file_type"].contents()
    return number


def test_an_importance_matrix_changes_the_blocks_of_its_tensors(
    checkpoint: Path, plain: gguf.GGUFReader, imatrix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "x.gguf"
    assert main([str(checkpoint), "-o", str(output), "--imatrix", str(imatrix)]) == 0
    assert f"{imatrix} has no entry for token_embd.weight: rounded without weights\n" in capsys.readouterr().err
    for before, after in zip(plain.tensors, gguf.GGUFReader(output).tensors, strict=True):
        assert before.tensor_type == after.tensor_type
        weighted = after.name.startswith("blk.") and not is_norm(after.name, after.shape.tolist())
        assert np.array_equal(before.data, after.data) != weighted


def test_types_of_few_bits_work_with_an_importance_matrix(checkpoint: Path, imatrix: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.gguf"
    assert main([str(checkpoint), "-o", str(output), "--type", "IQ3_XXS", "--imatrix", str(imatrix), "-q"]) == 0
    assert types(output)["blk.0.attn_q.weight"] == "IQ2_S"
    assert file_type(output) == gguf.LlamaFileType.MOSTLY_IQ3_XXS


def test_own_choices_take_the_rest_from_the_type(checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.txt"
    recipe.write_text("attn_[qk]=Q8_0\n")
    output = tmp_path / "x.gguf"
    assert main([str(checkpoint), "-o", str(output), "--recipe", str(recipe), "--type", "Q4_0", "-q"]) == 0
    found = types(output)
    assert found["blk.1.attn_q.weight"] == found["blk.0.attn_k.weight"] == "Q8_0"
    assert found["blk.0.attn_v.weight"] == "Q4_0"
    assert file_type(output) == gguf.LlamaFileType.MOSTLY_Q4_0


def test_own_choices_stand_in_a_target(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.txt"
    recipe.write_text("token_embd=Q5_K\n")
    arguments = [str(checkpoint), "-o", str(tmp_path), "--recipe", str(recipe), "--target-size"]
    assert main([*arguments, "900KB"]) == 0
    assert "measuring what rounding loses\nhow much each tensor counts is a rule" in capsys.readouterr().err
    (output,) = tmp_path.glob("tiny-*bpw.gguf")
    assert 850_000 < output.stat().st_size <= 900_000
    assert types(output)["token_embd.weight"] == "Q5_K"


def test_a_dry_run_shows_the_choice_and_the_predicted_loss(
    checkpoint: Path, plain: gguf.GGUFReader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.json"
    probes = {
        tensor.name: {"type": "Q4_K", "relative_error": 0.005, "kl": 0.01}
        for tensor in plain.tensors
        if not is_norm(tensor.name, tensor.shape.tolist())
    }
    path.write_text(json.dumps({"format": "commandr-sensitivity", "version": 1, "tensors": probes}))
    arguments = [str(checkpoint), "--dry-run", "--target-bpw", "5.5", "--sensitivity", str(path)]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "token_embd.weight" in shown.out.splitlines()[0]
    assert shown.out.splitlines()[-1].startswith("command-r 5.")
    assert "predicted KL divergence from the unrounded model: 0.0" in shown.err
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "IQ2_XS"], "type IQ2_XS needs an importance matrix: make one with 'commandr imatrix"),
        (["--imatrix", "nowhere"], "nowhere: cannot be read: No such file"),
        (["--recipe", "nowhere"], "cannot read nowhere: No such file"),
        (["--target-size", "20XB"], "'20XB' is not a size"),
        (["--target-size", "1KB"], "the target leaves 1000 for them"),
        (["--target-bpw", "40"], "40.0 bits per weight are not between 0 and 32"),
        (["--target-bpw", "nan"], "nan bits per weight are not between"),
        (["--target-bpw", "4", "--target-size", "1GB"], "give --target-size or --target-bpw, not both"),
        (["--target-bpw", "4", "--type", "Q4_0"], "give no --type with it"),
        (["--target-bpw", "4", "--sensitivity", "nowhere"], "cannot read nowhere: No such file"),
        (["--sensitivity", "s.json"], "--sensitivity is of use with --target-size or --target-bpw"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    checkpoint: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = main([str(checkpoint), "-o", str(tmp_path), *arguments])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, "")
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert message in shown.err
    assert list(tmp_path.iterdir()) == []
