"""Adapters in PEFT's form: what is added to which matrix, and what is refused."""

from __future__ import annotations

import hashlib
import math
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import shapes
from adapters import ALPHA, DOWN, EMBEDDING, QUERY, RANK, factors, linear, write_adapter
from convert import low_rank
from convert.errors import CheckpointError, ConvertError, UnsupportedError
from convert.hf_model import read_hf_model
from convert.lora import merge_adapter
from convert.low_rank import LowRank
from convert.source import SourceModel

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return read_hf_model(shapes.write_checkpoint(tmp_path_factory.mktemp("lora") / "base", "gqa", n_layers=2))


def delta(model: SourceModel, name: str) -> LowRank:
    found = next(tensor.delta for tensor in model.tensors if tensor.name == name)
    assert isinstance(found, LowRank)
    return found


def all_rows(change: LowRank) -> Floats:
    """In blocks that do not divide the number of rows."""
    n_out = change.shape[0]
    return np.concatenate([change.rows(first, min(100, n_out - first)) for first in range(0, n_out, 100)])


def assert_equal(found: Floats, expected: npt.NDArray[np.float64]) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def product(module: str, scale: float, *, rank: int = RANK, seed: int = 1) -> npt.NDArray[np.float64]:
    a, b = (factor.astype(np.float64) for factor in factors(module, rank=rank, seed=seed))
    return scale * (b @ a)


def test_the_change_is_scaled_and_lands_on_its_matrices_alone(tmp_path: Path, base: SourceModel) -> None:
    model = merge_adapter(write_adapter(tmp_path), base)
    assert_equal(all_rows(delta(model, "blk.1.attn_q.weight")), product(QUERY, ALPHA / RANK))
    assert_equal(all_rows(delta(model, "blk.0.ffn_down.weight")), product(DOWN, ALPHA / RANK))
    assert sum(tensor.delta is not None for tensor in model.tensors) == 2
    assert all(tensor.delta is None for tensor in base.tensors)
    assert model.notes[-1].endswith("trained on CohereLabs/c4ai-command-r-08-2024 into 2 tensors")
    (tmp_path / "README.md").write_text("Not read.")
    model = merge_adapter(tmp_path, base)
    assert model.files == [*base.files, tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"]


def test_provenance_tells_adapters_apart_that_differ_in_weights_or_configuration(
    tmp_path: Path, base: SourceModel
) -> None:
    told = [
        merge_adapter(write_adapter(tmp_path, linear(QUERY, seed=seed) | linear(DOWN), lora_alpha=alpha), base).origin[
            "lora"
        ]
        for seed, alpha in ((1, ALPHA), (1, ALPHA), (1, ALPHA + 1), (2, ALPHA))
    ]
    assert told[0] == told[1]
    assert len(set(told)) == 3
    digests = [
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("adapter_model.safetensors", "adapter_config.json")
    ]
    assert told[3] == f"{tmp_path.name} sha256:{digests[0]} adapter_config.json sha256:{digests[1]}"


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_factors_of_half_precision_are_widened_before_they_are_multiplied(
    tmp_path: Path, base: SourceModel, dtype: str
) -> None:
    exact = {name: np.round(values * 8) / np.float32(8) for name, values in (linear(QUERY) | linear(DOWN)).items()}
    model = merge_adapter(write_adapter(tmp_path, exact, dtype=dtype), base)
    a, b = (exact[f"base_model.model.{QUERY}.lora_{factor}.weight"].astype(np.float64) for factor in "AB")
    assert_equal(all_rows(delta(model, "blk.1.attn_q.weight")), ALPHA / RANK * (b @ a))


def test_rslora_divides_by_the_root_of_the_rank(tmp_path: Path, base: SourceModel) -> None:
    model = merge_adapter(write_adapter(tmp_path, use_rslora=True), base)
    assert_equal(all_rows(delta(model, "blk.1.attn_q.weight")), product(QUERY, ALPHA / math.sqrt(RANK)))


@pytest.mark.parametrize("key", ["q_proj", "layers.1.self_attn.q_proj", r"layers\.\d+\.self_attn\.q_proj"])
def test_patterns_change_rank_and_alpha_of_the_modules_whose_names_end_so(
    tmp_path: Path, base: SourceModel, key: str
) -> None:
    tensors = linear(QUERY, rank=2) | linear(DOWN)
    folder = write_adapter(tmp_path, tensors, rank_pattern={key: 2}, alpha_pattern={key: 5})
    model = merge_adapter(folder, base)
    assert_equal(all_rows(delta(model, "blk.1.attn_q.weight")), product(QUERY, 5 / 2, rank=2))
    assert_equal(all_rows(delta(model, "blk.0.ffn_down.weight")), product(DOWN, ALPHA / RANK))


def test_adapters_add_up_in_their_order(tmp_path: Path, base: SourceModel) -> None:
    first = write_adapter(tmp_path / "first")
    second = write_adapter(tmp_path / "second", linear(QUERY, rank=3, seed=2), r=3, target_modules=[QUERY])
    model = merge_adapter(second, merge_adapter(first, base))
    expected = product(QUERY, ALPHA / RANK) + product(QUERY, ALPHA / 3, rank=3, seed=2)
    assert_equal(all_rows(delta(model, "blk.1.attn_q.weight")), expected)
    assert_equal(all_rows(delta(model, "blk.0.ffn_down.weight")), product(DOWN, ALPHA / RANK))
    assert [part.split()[0] for part in model.origin["lora"].split(", ")] == ["first", "second"]


def tied(*, head_seed: int = 1) -> dict[str, Floats]:
    """An adapter of the embedding with the same on the head, as peft saves it with ensure_weight_tying."""
    a, b = factors(EMBEDDING)
    head_a, head_b = factors(EMBEDDING, seed=head_seed)
    return {
        f"base_model.model.{EMBEDDING}.lora_embedding_A": np.ascontiguousarray(b.T),
        f"base_model.model.{EMBEDDING}.lora_embedding_B": np.ascontiguousarray(a.T),
        "base_model.model.lm_head.lora_A.weight": head_a,
        "base_model.model.lm_head.lora_B.weight": head_b,
    }


def test_an_embedding_that_changes_with_the_head_is_merged_once(tmp_path: Path, base: SourceModel) -> None:
    model = merge_adapter(write_adapter(tmp_path, tied(), target_modules=["embed_tokens"]), base)
    assert_equal(all_rows(delta(model, "token_embd.weight")), product(EMBEDDING, ALPHA / RANK))


def without(tensors: dict[str, Floats], *parts: str) -> dict[str, Floats]:
    return {name: values for name, values in tensors.items() if not any(part in name for part in parts)}


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (without(tied(), "lm_head"), "changes model.embed_tokens otherwise than lm_head"),
        (without(tied(), "embed_tokens"), "changes lm_head otherwise than model.embed_tokens"),
        (tied(head_seed=2), "changes lm_head otherwise than model.embed_tokens"),
    ],
)
def test_an_embedding_that_changes_without_the_head_is_refused(
    tmp_path: Path, base: SourceModel, tensors: dict[str, Floats], sentence: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"{sentence}, and Command-R models have one matrix for both"):
        merge_adapter(write_adapter(tmp_path, tensors, target_modules=[]), base)


@pytest.mark.parametrize("changed", [False, True])
def test_a_copy_of_the_embedding_must_be_the_bases(tmp_path: Path, base: SourceModel, changed: bool) -> None:
    copy = dict(shapes.tensors(shapes.config_json("gqa"), 0))[f"{EMBEDDING}.weight"]
    bits = np.frombuffer(shapes.encode(copy, "BF16"), "<u2").astype(np.uint32).reshape(copy.shape) << 16
    bits[-1, -1] ^= np.uint32(changed) << 16
    tensors = tied() | {f"base_model.model.{EMBEDDING}.base_layer.weight": bits.view(np.float32)}
    folder = write_adapter(tmp_path, tensors, target_modules=["embed_tokens"])
    if changed:
        with pytest.raises(UnsupportedError, match="base_layer.weight differs from model.embed_tokens.weight"):
            merge_adapter(folder, base)
    else:
        assert delta(merge_adapter(folder, base), "token_embd.weight").rank == RANK


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"peft_type": "LOHA"}, 'peft_type is "LOHA"'),
        ({"use_dora": True}, "use_dora is true"),
        ({"bias": "lora_only"}, 'bias is "lora_only"'),
        ({"lora_bias": True}, "lora_bias is true"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is true"),
        ({"modules_to_save": ["embed_tokens"]}, r'modules_to_save is \["embed_tokens"\]'),
        ({"target_parameters": ["experts.down"]}, r'target_parameters is \["experts.down"\]'),
        ({"trainable_token_indices": [7]}, r"trainable_token_indices is \[7\]"),
        ({"init_lora_weights": "pissa"}, 'init_lora_weights is "pissa"'),
        ({"a_key_of_tomorrow": {"x": 1}}, 'a_key_of_tomorrow is {"x": 1}'),
        ({"r": 0}, "r is 0, not a positive whole number"),
        ({"lora_alpha": "8"}, 'lora_alpha is "8", not a number'),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern is"),
        ({"alpha_pattern": {"q_proj(": 2}}, "no regular expression"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"layers_to_transform": "all"}, 'layers_to_transform is "all"'),
    ],
)
def test_a_configuration_that_is_not_plain_lora_is_refused_by_key_and_value(
    tmp_path: Path, base: SourceModel, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConvertError, match=f"adapter_config.json: .*{sentence}"):
        merge_adapter(write_adapter(tmp_path, **config), base)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({}, "no adapter's tensors"),
        (without(linear(QUERY), "lora_B"), f"{QUERY}.lora_A.weight lacks the other factor"),
        (linear(QUERY, rank=3), rf"{QUERY}.lora_A.weight has the shape \[3, 256\].*call for \[4, 256\]"),
        (linear("model.layers.2.mlp.up_proj"), "model.layers.2.mlp.up_proj.lora_A.weight belongs to no matrix"),
        ({"base_model.model.score.weight": np.ones((2, 2), np.float32)}, "score.weight is neither factor"),
        ({f"{QUERY}.lora_A.weight": np.ones((4, 256), np.float32)}, "is neither factor"),
        (
            {
                f"base_model.model.{QUERY}.lora_A.weight": np.ones((RANK, 128), np.float32),
                f"base_model.model.{QUERY}.lora_B.weight": np.ones((128, RANK), np.float32),
            },
            rf"{QUERY}.lora_A.weight has the shape \[4, 128\]",
        ),
        (
            {
                "base_model.model.model.norm.lora_A.weight": np.ones((RANK, 256), np.float32),
                "base_model.model.model.norm.lora_B.weight": np.ones((1, RANK), np.float32),
            },
            "model.norm.lora_A.weight has the shape",
        ),
        (
            linear(QUERY) | {f"base_model.model.{QUERY}.lora_B.weight": np.full((256, RANK), np.nan, np.float32)},
            f"{QUERY}.lora_B.weight holds 1024 NaN or infinite values",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, base: SourceModel, tensors: dict[str, Floats], sentence: str
) -> None:
    with pytest.raises(ConvertError, match=f"adapter_model.safetensors.*{sentence}"):
        merge_adapter(write_adapter(tmp_path, tensors, target_modules=[]), base)


@pytest.mark.parametrize(
    ("config", "complete"),
    [
        ({"target_modules": ["q_proj", "down_proj"]}, False),
        ({"target_modules": r".*\.(q_proj|down_proj)"}, False),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, True),
        ({"target_modules": ["q_proj"], "layers_to_transform": 0}, False),
        ({"target_modules": ["q_proj"], "exclude_modules": ["model.layers.0.self_attn.q_proj"]}, True),
    ],
)
def test_a_targeted_module_without_tensors_is_an_error(
    tmp_path: Path, base: SourceModel, config: dict[str, Any], complete: bool
) -> None:
    folder = write_adapter(tmp_path, **config)
    if complete:
        merge_adapter(folder, base)
    else:
        with pytest.raises(CheckpointError, match=r"no tensors for model\.layers\.\d\..*which adapter_config.json"):
            merge_adapter(folder, base)


def test_weights_saved_by_pickle_are_named(tmp_path: Path, base: SourceModel) -> None:
    folder = write_adapter(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="safetensors is missing .adapter_model.bin is not read"):
        merge_adapter(folder, base)


def test_rows_are_the_same_bits_in_blocks_of_any_size() -> None:
    change = LowRank(shapes.normal(1, "a", (64, 513)), shapes.normal(1, "b", (200, 64)), 0.3)
    whole = change.rows(0, 200)
    for size in (1, 7, 32, 100):
        blocks = [change.rows(first, min(size, 200 - first)) for first in range(0, 200, size)]
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_threads_share_float_copies_of_at_most_two_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads ask for blocks of six tensors, the last of which has two adapters."""
    rank, n_in, n_out = 8, 64, 160
    changes = [
        LowRank(shapes.normal(i, "a", (rank, n_in)), shapes.normal(i, "b", (n_out, rank)), 0.5) for i in range(5)
    ]
    changes.append(LowRank(changes[1].a, changes[0].b, 0.3, below=changes[2]))
    expected = [change.rows(0, n_out) for change in changes]

    lock = threading.RLock()
    alive, most, made = 0, 0, 0

    def freed() -> None:
        nonlocal alive
        with lock:
            alive -= 1

    floats = low_rank.floats

    def counted(raw: npt.NDArray[Any]) -> Floats:
        nonlocal alive, most, made
        if raw.shape != (rank, n_in):
            time.sleep(0.001)  # a product that lasts, so that other threads begin theirs
            return floats(raw)
        with lock:
            alive, made = alive + 1, made + 1
            most = max(most, alive)
        copy = floats(raw)
        weakref.finalize(copy, freed)
        return copy

    monkeypatch.setattr(low_rank, "floats", counted)
    monkeypatch.setattr(low_rank, "_copies", low_rank._Copies())
    blocks = [(change, first) for change in changes for first in range(0, n_out, 10)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda block: block[0].rows(block[1], 10), blocks))
        assert made < len(blocks) / 2
        list(pool.map(lambda block: block[0].rows(block[1], 10), blocks[::16] * 3))  # each of another tensor
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected))
    assert most == 2
