"""Which tensor gets which type, against what llama.cpp's quantizer does.

recipes.json was written by llama.cpp itself: PYTHONPATH=tests:. python tests/convert/test_recipe.py
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGUFReader

import models
import oracles
from convert.errors import ArgumentError
from convert.ggml_types import row_size
from convert.hf_model import read_hf_model
from convert.hparams import HParams
from convert.imatrix import ImportanceMatrix
from convert.pipeline import write_plan
from convert.plan import make_plan
from convert.recipe import (
    FILE_TYPES,
    GGML_TYPES,
    FileType,
    ModelShape,
    check_imatrix,
    file_type,
    guessed_file_type,
    is_norm,
    tensor_type,
)
from convert.source import SourceModel
from convert.tensor_names import tensor_names

HERE = Path(__file__).parent
GOLDEN = HERE / "recipes.json"
LLAMA_CPP = "llama-cpp-python 0.3.36"

NEED_IMATRIX = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M"),
    "Q2_K_S",
)
WITHOUT_IMATRIX = [recipe for recipe in FILE_TYPES.values() if recipe.name not in NEED_IMATRIX]
WITH_IMATRIX = list(FILE_TYPES.values())


@dataclasses.dataclass(frozen=True)
class Case:
    """A model as the choice of types sees it: only the row lengths' divisors, the layers and the head groups count."""

    architecture: str
    n_layer: int
    n_head: int = 8
    n_head_kv: int = 8
    n_embd: int = 256
    n_ff: int = 256
    qk_norm: bool = False

    def tensors(self) -> dict[str, tuple[int, ...]]:
        hparams = HParams(
            architecture=self.architecture,
            n_vocab=32,
            n_ctx_train=64,
            n_embd=self.n_embd,
            n_ff=self.n_ff,
            n_layer=self.n_layer,
            n_head=self.n_head,
            n_head_kv=self.n_head_kv,
            head_dim=self.n_embd // self.n_head,
            rope_freq_base=1e4,
            norm_eps=1e-5,
            logit_scale=1.0,
            sliding_window=0,
            swa_period=0,
            use_qk_norm=None,
        )
        return {name.gguf: name.shape for name in tensor_names(hparams, qk_norm=self.qk_norm)}

    def types(self, recipe: FileType, *, has_imatrix: bool) -> dict[str, str]:
        shape = ModelShape(self.n_layer, self.n_head // self.n_head_kv)
        return {
            name: tensor_type(recipe, shape, name, dims, has_imatrix=has_imatrix)
            for name, dims in self.tensors().items()
        }

    def request(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"tensors": self.tensors()}


PUBLISHED = {
    "command-r v01": Case("command-r", 40),
    "command-r 08-2024": Case("command-r", 40, n_head_kv=1),
    "command-r+": Case("command-r", 64, n_head_kv=1, qk_norm=True),
    "command-r7b": Case("cohere2", 32, n_head_kv=2),
    "rows of 32 x 5": Case("command-r", 9, n_head=4, n_head_kv=4, n_embd=160, n_ff=288),
    "rows of 8 x 33": Case("command-r", 9, n_head=4, n_head_kv=1, n_embd=256, n_ff=264),
}
LAYERS = (1, 2, 4, 7, 8, 9, 16, 17, 24, 33)
ALL = [
    *PUBLISHED.values(),
    *(Case("command-r", n) for n in LAYERS),
    *(Case("command-r", n, n_head_kv=2) for n in LAYERS),
    *(Case("command-r", n, n_head_kv=4, qk_norm=True) for n in LAYERS),
    *(Case("cohere2", n, n_head_kv=1) for n in LAYERS),
    *(Case("cohere2", 9, n_head=4, n_head_kv=1, n_embd=e, n_ff=f) for e, f in [(96, 160), (288, 520), (264, 48)]),
]


def by_llama_cpp(
    cases: Iterable[Case], recipes: Iterable[FileType], folder: Path, *, has_imatrix: bool
) -> list[list[dict[str, str]]]:
    """For each case, for each of the file types: the types of the tensors."""
    request = {
        "models": [case.request() for case in cases],
        "file_types": [recipe.number for recipe in recipes],
        "imatrix": "ones" if has_imatrix else None,
    }
    path = folder / "request.json"
    path.write_text(json.dumps(request))
    answer: list[list[dict[str, str]]] = json.loads(oracles.run(HERE / "llama_cpp_quantizer.py", path))
    return answer


def summary(types: Mapping[str, str]) -> dict[str, str]:
    """Types over the layers, runs shortened -> the kinds of tensors that have them: {"2 Q6_K, 5 Q4_K": "attn_v"}."""
    orders: dict[str, list[str]] = {}
    for name, kind in types.items():
        orders.setdefault(name.split(".")[-2], []).append(kind)
    kinds: dict[str, list[str]] = {}
    for kind, order in sorted(orders.items()):
        runs = ", ".join(f"{len(list(run))} {t}" for t, run in itertools.groupby(order))
        kinds.setdefault(runs, []).append(kind)
    return {runs: " ".join(of_runs) for runs, of_runs in kinds.items()}


def in_layer_order(types: Mapping[str, str], case: Case) -> dict[str, str]:
    return {name: types[name] for name in case.tensors()}


def check_golden(model: str, recipe: FileType, *, has_imatrix: bool) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["written by"] == LLAMA_CPP
    expected = golden["with imatrix" if has_imatrix else "without imatrix"][model][recipe.name]
    assert summary(PUBLISHED[model].types(recipe, has_imatrix=has_imatrix)) == expected


@pytest.mark.parametrize("recipe", WITHOUT_IMATRIX, ids=[recipe.name for recipe in WITHOUT_IMATRIX])
@pytest.mark.parametrize("model", PUBLISHED)
def test_golden(model: str, recipe: FileType) -> None:
    check_golden(model, recipe, has_imatrix=False)


@pytest.mark.parametrize("recipe", WITH_IMATRIX, ids=[recipe.name for recipe in WITH_IMATRIX])
@pytest.mark.parametrize("model", PUBLISHED)
def test_golden_with_imatrix(model: str, recipe: FileType) -> None:
    check_golden(model, recipe, has_imatrix=True)


@pytest.mark.oracle
@pytest.mark.timeout(900)
@pytest.mark.parametrize("has_imatrix", [False, True], ids=["without imatrix", "with imatrix"])
def test_llama_cpp_chooses_the_same(has_imatrix: bool, tmp_path: Path) -> None:
    recipes = WITH_IMATRIX if has_imatrix else WITHOUT_IMATRIX
    for case, answers in zip(ALL, by_llama_cpp(ALL, recipes, tmp_path, has_imatrix=has_imatrix), strict=True):
        for recipe, answer in zip(recipes, answers, strict=True):
            assert case.types(recipe, has_imatrix=has_imatrix) == in_layer_order(answer, case), (case, recipe.name)


@pytest.mark.parametrize("recipe", FILE_TYPES.values(), ids=list(FILE_TYPES))
def test_types_of_few_bits_need_an_imatrix(recipe: FileType) -> None:
    check_imatrix(recipe, has_imatrix=True)
    if recipe.name not in NEED_IMATRIX:
        check_imatrix(recipe, has_imatrix=False)
        return
    with pytest.raises(ArgumentError, match=f"type {recipe.name} needs an importance matrix: make one with 'commandr"):
        check_imatrix(recipe, has_imatrix=False)


@pytest.mark.oracle
@pytest.mark.timeout(900)
@pytest.mark.parametrize("has_imatrix", [False, True], ids=["without imatrix", "with imatrix"])
@pytest.mark.parametrize("shape", models.SHAPES)
def test_llama_cpp_writes_the_same_bytes(shape: str, has_imatrix: bool, tmp_path: Path) -> None:
    """Its quantizer on our BF16 file against our own file of that type."""
    recipes = WITH_IMATRIX if has_imatrix else WITHOUT_IMATRIX
    source = read_hf_model(models.checkpoint(shape))
    weights = random_weights(source) if has_imatrix else {}
    model = {"file": str(models.gguf(shape, "BF16")), "out": str(tmp_path / "{}.gguf")}
    request = {
        "models": [model],
        "file_types": [recipe.number for recipe in recipes],
        "imatrix": {name: values.tolist() for name, values in weights.items()},
    }
    path = tmp_path / "request.json"
    path.write_text(json.dumps(request))
    oracles.run(HERE / "llama_cpp_quantizer.py", path)
    imatrix = ImportanceMatrix(path, weights, (), 1, "") if has_imatrix else None
    for recipe in recipes:
        write_plan(make_plan(source, recipe, imatrix=imatrix), tmp_path / "ours.gguf", overwrite=True)
        ours, theirs = GGUFReader(tmp_path / "ours.gguf"), GGUFReader(tmp_path / f"{recipe.number}.gguf")
        expected = {tensor.name: tensor for tensor in theirs.tensors}
        assert {tensor.name for tensor in ours.tensors} == expected.keys()
        for tensor in ours.tensors:
            other = expected[tensor.name]
            assert (tensor.tensor_type, tensor.shape.tolist()) == (other.tensor_type, other.shape.tolist())
            different = np.mean(tensor.data.view(np.uint8) != other.data.view(np.uint8))
            # ggml 0.25.3, which llama.cpp has, sums in another order than 0.20.2 when it searches IQ1_M's scales.
            bound = 5e-3 if tensor.tensor_type.name == "IQ1_M" else 0.0
            assert different <= bound, (recipe.name, tensor.name)


def random_weights(model: SourceModel) -> dict[str, npt.NDArray[np.float32]]:
    """Of columns, as an importance matrix has them, for all weights but the embedding."""
    random = np.random.default_rng(0)
    return {
        tensor.name: (random.standard_normal(tensor.source.n_per_row, np.float32) ** 2)
        for tensor in model.tensors
        if tensor.name.startswith("blk.") and not is_norm(tensor.name, tensor.source.shape)
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Q4_K", "Q4_K_M"), ("q4_k", "Q4_K_M"), ("Q5_K", "Q5_K_M"), ("iq4_xs", "IQ4_XS"), ("bf16", "BF16")],
)
def test_names(name: str, expected: str) -> None:
    assert file_type(name).name == expected


@pytest.mark.parametrize("name", ["", "Q4", "Q4_K_L", "q9_0"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(ArgumentError, match="choose one of F32, F16"):
        file_type(name)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["F32"] * 9 + ["Q4_K", "Q4_K", "Q6_K"], "Q4_K_M"),
        (["F32", "Q3_K"], "Q3_K_M"),
        (["IQ2_S"], "IQ2_S"),
        (["F32", "Q8_0", "F16", "F16"], "F16"),
        (["F32"], "F32"),
    ],
)
def test_a_mix_is_numbered_by_the_type_of_most_weights(types: list[str], expected: str) -> None:
    assert guessed_file_type(types).name == expected


def test_every_type_of_a_mix_has_a_number() -> None:
    assert all(guessed_file_type([ggml_type]).number >= 0 for ggml_type in GGML_TYPES)


def test_sizes_beyond_32_bits() -> None:
    assert 256000 * row_size("Q6_K", 12288) == 256000 * 12288 // 256 * 210 == 2580480000


def write_golden() -> None:
    import tempfile

    golden: dict[str, Any] = {"written by": LLAMA_CPP}
    for title, recipes in (("without imatrix", WITHOUT_IMATRIX), ("with imatrix", WITH_IMATRIX)):
        with tempfile.TemporaryDirectory() as folder:
            answers = by_llama_cpp(PUBLISHED.values(), recipes, Path(folder), has_imatrix=title == "with imatrix")
        golden[title] = {
            model: {
                recipe.name: summary(in_layer_order(types, case))
                for recipe, types in zip(recipes, of_model, strict=True)
            }
            for (model, case), of_model in zip(PUBLISHED.items(), answers, strict=True)
        }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
