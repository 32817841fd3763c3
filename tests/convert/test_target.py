"""Types chosen for a size: sizes are kept, choices follow errors and sensitivities, and the embedded model gains.

demo_sensitivity.json was measured on the embedded model: PYTHONPATH=tests:. python tests/convert/test_target.py
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import measure as logits_measure
from commandr_gguf import CommandR
from commandr_gguf.demo.data.example import TASKS
from commandr_gguf.demo.data.names import Split
from commandr_gguf.demo.data.source import Source
from commandr_gguf.demo.embedded import CHECKPOINT
from commandr_gguf.demo.rows import Encoder
from convert.choice import Target, plan_for_target, shapes_of
from convert.errors import ArgumentError, ConvertError
from convert.ggml_types import row_size
from convert.hf_model import read_hf_model
from convert.imatrix import ImportanceMatrix
from convert.layout import lay_out
from convert.pipeline import write_plan
from convert.plan import Plan, make_plan
from convert.recipe import file_type, is_norm
from convert.rounding import relative_error
from convert.rows import FileRows
from convert.sensitivity import Probe, Sensitivity, read_sensitivity
from convert.source import SourceModel
from convert.target import check_target, measure

DEMO_SENSITIVITY = Path(__file__).with_name("demo_sensitivity.json")
PROBE = "Q4_K"

SHAPES = {
    "token_embd.weight": (512, 256),
    "blk.0.attn_norm.weight": (256,),
    "blk.0.attn_q.weight": (256, 256),
    "blk.0.attn_v.weight": (64, 256),
    "blk.0.ffn_down.weight": (256, 288),
    "output_norm.weight": (256,),
}


def read_rows(name: str, first: int, n: int) -> npt.NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    return np.random.default_rng(seed).standard_normal(SHAPES[name], np.float32)[first : first + n]


def sensitivity(**kl: float) -> Sensitivity:
    probes = {
        name: Probe("Q5_0", 0.002, kl.get(name.split(".")[-2], 0.001))
        for name, shape in SHAPES.items()
        if not is_norm(name, shape)
    }
    return Sensitivity(Path("s.json"), "tiny", probes, "")


def imatrix(names: Sequence[str]) -> ImportanceMatrix:
    entries = {name: np.ones(SHAPES[name][-1], np.float32) for name in names}
    return ImportanceMatrix(Path("x.imatrix"), entries, (), 1, "")


def test_norms_stay_f32_fixed_types_are_kept_and_short_rows_get_small_blocks() -> None:
    chosen = measure(SHAPES, read_rows, fixed={"blk.0.attn_q.weight": "Q4_0"}).choose(130_000)
    assert chosen.types["output_norm.weight"] == chosen.types["blk.0.attn_norm.weight"] == "F32"
    assert chosen.types["blk.0.attn_q.weight"] == "Q4_0"
    assert chosen.types["blk.0.ffn_down.weight"] in {"Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"}
    assert list(chosen.types) == list(SHAPES)


def test_more_bytes_never_lose_more_and_sizes_are_kept() -> None:
    measured = measure(SHAPES, read_rows, n_threads=2)
    sizes = range(120_000, 320_000, 10_000)
    chosen = [measured.choose(size) for size in sizes]
    assert all(c.n_bytes <= size for c, size in zip(chosen, sizes, strict=True))
    losses = [c.loss for c in chosen]
    assert losses == sorted(losses, reverse=True)
    assert [c.is_largest for c in chosen] == [set(c.types.values()) == {"F32", "Q8_0"} for c in chosen]
    assert chosen[-1].is_largest


def test_what_is_sensitive_gets_more_bits() -> None:
    plain = measure(SHAPES, read_rows, sensitivity=sensitivity()).choose(160_000).types
    for kind in ("attn_q", "attn_v"):
        types = measure(SHAPES, read_rows, sensitivity=sensitivity(**{kind: 1.0})).choose(160_000).types
        bytes_before, bytes_now = (row_size(t[f"blk.0.{kind}.weight"], 256) for t in (plain, types))
        assert bytes_now > bytes_before


def test_the_loss_is_the_probes_divergence_in_proportion_to_the_error() -> None:
    measured = measure(SHAPES, read_rows, sensitivity=sensitivity(attn_q=0.4))
    rows = read_rows("blk.0.attn_q.weight", 0, 256)
    ratio = relative_error("Q3_K", rows, None) / relative_error("Q5_0", rows, None)
    assert measured.options["blk.0.attn_q.weight"]["Q3_K"].cost == pytest.approx(0.4 * ratio)
    assert measured.is_kl


def test_types_that_need_an_imatrix_are_there_only_for_tensors_that_it_has() -> None:
    matrix = imatrix(["token_embd.weight", "blk.0.attn_q.weight"])
    small = {
        "token_embd.weight": "IQ2_XS",
        "blk.0.attn_q.weight": "IQ2_XS",
        "blk.0.attn_v.weight": "Q2_K",
        "blk.0.ffn_down.weight": "Q4_0",
    }
    least = 2 * 256 * 4 + sum(SHAPES[name][0] * row_size(t, SHAPES[name][1]) for name, t in small.items())
    check_target(SHAPES, least, fixed={}, imatrix=matrix)
    with pytest.raises(ArgumentError, match=f"at least {least} bytes, and the target leaves {least - 1} for them"):
        check_target(SHAPES, least - 1, fixed={}, imatrix=matrix)
    with pytest.raises(ArgumentError, match="the tensors take at least 113408 bytes"):
        check_target(SHAPES, least, fixed={})


def test_a_sensitivity_of_another_model_is_refused() -> None:
    found = sensitivity()
    for probes, message in (
        ({**found.probes, "blk.9.attn_q.weight": Probe("Q4_K", 1, 1)}, "no such tensor as its blk.9.attn_q"),
        ({**found.probes, "blk.0.ffn_down.weight": Probe("Q4_K", 1, 1)}, "no such tensor as its blk.0.ffn_down"),
        ({"blk.0.attn_q.weight": Probe("Q4_K", 1, 1)}, "has no entry for token_embd.weight"),
    ):
        with pytest.raises(ArgumentError, match=f"s.json .*{message}"):
            measure(SHAPES, read_rows, sensitivity=Sensitivity(found.path, "", probes, ""))


def test_values_that_are_no_numbers_do_not_count() -> None:
    def with_nan(name: str, first: int, n: int) -> npt.NDArray[np.float32]:
        rows = read_rows(name, first, n)
        rows[0, :2] = np.nan, np.inf
        return rows

    options = measure(SHAPES, with_nan).options["blk.0.attn_v.weight"]
    assert 0 < options["Q8_0"].cost < options["Q2_K"].cost < 0.2


def test_a_tensor_that_cannot_be_measured_is_named() -> None:
    matrix = imatrix(["blk.0.attn_v.weight"])
    matrix.entries["blk.0.attn_v.weight"][3] = 1e30
    with pytest.raises(ConvertError, match="tensor blk.0.attn_v.weight cannot be converted to Q8_0: .*column 3"):
        measure(SHAPES, read_rows, imatrix=matrix)


@functools.cache
def demo() -> SourceModel:
    return read_hf_model(CHECKPOINT)


def texts(split: Split, seed: int, count: int) -> list[list[int]]:
    """Prompts with their replies, ``count`` of each task."""
    encoder = Encoder(CHECKPOINT)
    sources = [(task, Source(split, len(TASKS) * seed + i)) for i, task in enumerate(TASKS)]
    return [encoder.row(example).tokens for task, source in sources for example in source.examples(task, count)]


def logits(plan: Plan, folder: Path, rows: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
    path = folder / "x.gguf"
    write_plan(plan, path, overwrite=True)
    with CommandR(path, n_ctx=2048, n_threads=1) as model:
        return np.concatenate([model.logits(row) for row in rows])


def file_size(plan: Plan) -> int:
    return lay_out(plan, Path("x.gguf"))[0].size


@pytest.fixture(scope="module")
def held_out() -> list[list[int]]:
    return texts("test", 1, 1)


@pytest.fixture(scope="module")
def unrounded(held_out: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> npt.NDArray[np.float32]:
    return logits(make_plan(demo(), file_type("BF16")), tmp_path_factory.mktemp("demo"), held_out)


@pytest.mark.parametrize(("recipe", "gain"), [("Q3_K_M", 2.0), ("Q4_K_M", 2.0), ("Q5_K_M", 1.5)])
def test_measured_choices_lose_less_than_the_stock_recipe_of_the_same_size(
    recipe: str, gain: float, held_out: list[list[int]], unrounded: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    stock = make_plan(demo(), file_type(recipe))
    own = plan_for_target(demo(), Target(n_bytes=file_size(stock)), sensitivity=read_sensitivity(DEMO_SENSITIVITY))
    assert file_size(stock) * 0.998 < file_size(own) <= file_size(stock)
    lost_by_stock, lost = (
        logits_measure.kl_divergence(logits(plan, tmp_path, held_out), unrounded) for plan in (stock, own)
    )
    assert lost * gain < lost_by_stock
    predicted = float(own.notes[0].split(": ")[1].split()[0])
    assert predicted == pytest.approx(lost, rel=0.5)


def test_a_target_in_bits_per_weight() -> None:
    plan = plan_for_target(demo(), Target(bits_per_weight=4.5))
    assert 4.49 < plan.bits_per_weight <= 4.5
    assert plan.file_type.name == f"{plan.bits_per_weight:.2f}bpw"
    assert plan.notes == ["how much each tensor counts is a rule of thumb: measure it and give --sensitivity"]
    most = max({t.ggml_type for t in plan.tensors} - {"F32"}, key=[t.ggml_type for t in plan.tensors].count)
    assert plan.file_type.base == most


def test_a_target_above_everything_is_noted() -> None:
    plan = plan_for_target(demo(), Target(n_bytes=10**9))
    assert {tensor.ggml_type for tensor in plan.tensors} == {"F32", "Q8_0"}
    assert plan.notes[-1].startswith("the target is above the largest types of choice, Q8_0")


def test_a_target_of_several_files_counts_all_of_them() -> None:
    n_bytes, split = 2_500_000, 300_000
    plan = plan_for_target(demo(), Target(n_bytes=n_bytes), split_max_bytes=split)
    files = lay_out(plan, Path("x.gguf"), max_bytes=split)
    assert len(files) > 5
    assert n_bytes * 0.99 < sum(file.size for file in files) <= n_bytes


def test_a_target_below_everything_is_refused_before_anything_is_measured() -> None:
    def fail(name: str) -> None:
        raise AssertionError(name)

    with pytest.raises(ArgumentError, match="the tensors take at least 1317888 bytes, and the target leaves 10"):
        plan_for_target(demo(), Target(n_bytes=10**6), progress=fail)


@pytest.mark.parametrize("bits", [0.0, -1.0, 33.0, float("nan")])
def test_bits_out_of_range(bits: float) -> None:
    with pytest.raises(ArgumentError, match="bits per weight are not between 0 and 32"):
        Target(bits_per_weight=bits)


def write_demo_sensitivity() -> None:
    import tempfile

    rows = texts("train", 1, 2)
    tensors: Mapping[str, object] = {}
    with tempfile.TemporaryDirectory() as folder, FileRows() as file:
        base = logits(make_plan(demo(), file_type("BF16")), Path(folder), rows)
        for tensor in demo().tensors:
            if is_norm(tensor.name, shapes_of(demo())[tensor.name]):
                continue
            changed = logits(make_plan(demo(), file_type("BF16"), types={tensor.name: PROBE}), Path(folder), rows)
            values = file.floats(tensor.source, 0, tensor.source.n_rows)
            entry = {
                "type": PROBE,
                "relative_error": float(f"{relative_error(PROBE, values, None):.6g}"),
                "kl": float(f"{logits_measure.kl_divergence(changed, base):.6g}"),
            }
            tensors = {**tensors, tensor.name: entry}
    content = {
        "format": "commandr-sensitivity",
        "version": 1,
        "model": demo().name,
        "text_sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "n_tokens": sum(map(len, rows)),
        "tensors": tensors,
    }
    DEMO_SENSITIVITY.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    write_demo_sensitivity()
