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
import pytest
from gguf import GGUFReader

import models
import oracles
from convert.errors import ArgumentError
from convert.ggml_types import row_size
from convert.hparams import HParams
from convert.recipe import FILE_TYPES, FileType, ModelShape, file_type, tensor_type
from convert.tensor_names import tensor_names

HERE = Path(__file__).parent
GOLDEN = HERE / "recipes.json"
LLAMA_CPP = "llama-cpp-python 0.3.36"


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

    def types(self, recipe: FileType) -> dict[str, str]:
        shape = ModelShape(self.n_layer, self.n_head // self.n_head_kv)
        return {name: tensor_type(recipe, shape, name, dims) for name, dims in self.tensors().items()}

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


def by_llama_cpp(cases: Iterable[Case], folder: Path) -> list[list[dict[str, str]]]:
    """For each case, for each of FILE_TYPES: the types of the tensors."""
    request = {
        "models": [case.request() for case in cases],
        "file_types": [recipe.number for recipe in FILE_TYPES.values()],
    }
    path = folder / "request.json"
    path.write_text(json.dumps(request))
    answer: list[list[dict[str, str]]] = json.loads(oracles.run(HERE / "llama_cpp_quantizer.py", path))
    return answer


def summary(types: Mapping[str, str]) -> dict[str, str]:
    """Kind of tensor -> its types over the layers, runs shortened: {"attn_v": "5 Q6_K, 2 Q4_K, ..."}."""
    kinds: dict[str, list[str]] = {}
    for name, kind in types.items():
        kinds.setdefault(name.split(".")[-2], []).append(kind)
    runs = {kind: [(len(list(run)), t) for t, run in itertools.groupby(order)] for kind, order in kinds.items()}
    return {kind: ", ".join(f"{n} {t}" for n, t in order) for kind, order in sorted(runs.items())}


def in_layer_order(types: Mapping[str, str], case: Case) -> dict[str, str]:
    return {name: types[name] for name in case.tensors()}


@pytest.mark.parametrize("recipe", FILE_TYPES.values(), ids=list(FILE_TYPES))
@pytest.mark.parametrize("model", PUBLISHED)
def test_golden(model: str, recipe: FileType) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["written by"] == LLAMA_CPP
    assert summary(PUBLISHED[model].types(recipe)) == golden[model][recipe.name]


@pytest.mark.oracle
@pytest.mark.timeout(900)
def test_llama_cpp_chooses_the_same(tmp_path: Path) -> None:
    for case, answers in zip(ALL, by_llama_cpp(ALL, tmp_path), strict=True):
        for recipe, answer in zip(FILE_TYPES.values(), answers, strict=True):
            assert case.types(recipe) == in_layer_order(answer, case), (case, recipe.name)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", models.SHAPES)
def test_llama_cpp_writes_the_same_bytes(shape: str, tmp_path: Path) -> None:
    """Its quantizer on our BF16 file against our own file of that type."""
    recipes = list(FILE_TYPES.values())
    model = {"file": str(models.gguf(shape, "BF16")), "out": str(tmp_path / "{}.gguf")}
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"models": [model], "file_types": [recipe.number for recipe in recipes]}))
    oracles.run(HERE / "llama_cpp_quantizer.py", path)
    for recipe in recipes:
        ours, theirs = GGUFReader(models.gguf(shape, recipe.name)), GGUFReader(tmp_path / f"{recipe.number}.gguf")
        expected = {tensor.name: tensor for tensor in theirs.tensors}
        assert {tensor.name for tensor in ours.tensors} == expected.keys()
        for tensor in ours.tensors:
            other = expected[tensor.name]
            assert (tensor.tensor_type, tensor.shape.tolist()) == (other.tensor_type, other.shape.tolist())
            assert np.array_equal(tensor.data.view(np.uint8), other.data.view(np.uint8)), (recipe.name, tensor.name)


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


def test_sizes_beyond_32_bits() -> None:
    assert 256000 * row_size("Q6_K", 12288) == 256000 * 12288 // 256 * 210 == 2580480000


def write_golden() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        answers = by_llama_cpp(PUBLISHED.values(), Path(folder))
    golden: dict[str, Any] = {"written by": LLAMA_CPP}
    for (model, case), of_model in zip(PUBLISHED.items(), answers, strict=True):
        golden[model] = {
            recipe.name: summary(in_layer_order(types, case))
            for recipe, types in zip(FILE_TYPES.values(), of_model, strict=True)
        }
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
