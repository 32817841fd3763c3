"""What a file says of its own making is enough to make it again."""

from __future__ import annotations

from pathlib import Path

import pytest

import shapes
from convert.cli import main
from convert.gguf_header import read_gguf_header
from convert.provenance import PREFIX
from convert.sensitivity import read_sensitivity

DEMO_SENSITIVITY = Path(__file__).with_name("demo_sensitivity.json")
DEMO = Path(__file__).parents[2] / "commandr_gguf/demo/checkpoint"


def told(path: Path) -> dict[str, object]:
    keys = read_gguf_header(path).keys
    return {name.removeprefix(PREFIX): value.value for name, value in keys.items() if name.startswith(PREFIX)}


def test_the_lines_of_a_recipe_make_the_same_file_again(tmp_path: Path) -> None:
    folder = shapes.write_checkpoint(tmp_path / "base", "gqa", n_layers=2)
    recipe, first, second = tmp_path / "mine.txt", tmp_path / "1.gguf", tmp_path / "2.gguf"
    recipe.write_text("# mine\nattn_v = q6_k   # more\n^blk\\.[01]\\.ffn_down=Q5_K\n")
    assert main([str(folder), "-o", str(first), "--type", "Q4_0", "--recipe", str(recipe), "--quiet"]) == 0
    about = told(first)
    assert about["recipe"] == "attn_v=Q6_K\n^blk\\.[01]\\.ffn_down=Q5_K"
    assert (about["type"], about["own_types_count"]) == ("Q4_0", 4)
    recipe.write_text(str(about["recipe"]))
    assert main([str(folder), "-o", str(second), "--type", str(about["type"]), "--recipe", str(recipe), "-q"]) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [("--target-bpw", "5", "5.0 bits per weight"), ("--target-size", "3MB", "3000000 bytes")],
)
def test_targets_are_told_with_their_sensitivity(tmp_path: Path, option: str, value: str, expected: str) -> None:
    output = tmp_path / "x.gguf"
    command = [str(DEMO), "-o", str(output), option, value, "--sensitivity", str(DEMO_SENSITIVITY), "--quiet"]
    assert main(command) == 0
    about = told(output)
    assert about["target"] == expected
    assert about["sensitivity.sha256"] == read_sensitivity(DEMO_SENSITIVITY).sha256


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    fingerprints: list[object] = []
    for seed in (0, 1, 0):
        folder = shapes.write_checkpoint(tmp_path / str(len(fingerprints)) / "model", "gqa", n_layers=1, seed=seed)
        assert main([str(folder), "-o", str(folder.with_suffix(".gguf")), "-q"]) == 0
        about = told(folder.with_suffix(".gguf"))
        assert about["source"] == "model"
        fingerprints.append(about["source_fingerprint"])
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]
