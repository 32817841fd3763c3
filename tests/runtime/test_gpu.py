"""Models on graphics cards: what is there computes what the CPU does, wherever layers and caches lie.

Needs a ggml with a GPU backend and a device for it. Without a card, Mesa's lavapipe is one (25.0.7 is; 22.3.6, Debian
12's own, frees memory that is not its own): `make ggml-vulkan`, then `GGML_VK_VISIBLE_DEVICES=0,0 pytest
tests/runtime/test_gpu.py` sees it as two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import embedded
import loud
import measure
import models
from commandr_gguf import CommandR, EvalItem, GGUFFile, Model, Session, devices, kv_cache_bytes
from commandr_gguf.cli import main
from commandr_gguf.demo import showcase
from commandr_gguf.plan.needs import held
from commandr_gguf.plan.needs import measure as measure_needs
from elsewhere import LIMIT, check_logits
from reference import Reference

GPUS = [device.name for kind in ("gpu", "igpu") for device in devices() if device.type == kind]
IS_LAVAPIPE = any("llvmpipe" in device.description for device in devices())
TOKENS = np.r_[5, np.random.default_rng(3).integers(8, 600, 1499)].astype(np.int32)

pytestmark = [
    pytest.mark.skipif(not GPUS, reason="no GPU, or a ggml without a backend for it (`make ggml-vulkan`)"),
    pytest.mark.timeout(900),  # lavapipe compiles every shader
]
two_gpus = pytest.mark.skipif(len(GPUS) < 2, reason="there are no two GPUs")


@pytest.mark.parametrize("n_gpu_layers", [-1, 2])
@pytest.mark.parametrize("file_type", ["F32", "BF16", "Q8_0", "Q4_K"])
@pytest.mark.parametrize("shape", models.SHAPES)
def test_logits_of_whole_and_of_partial_offload(shape: str, file_type: str, n_gpu_layers: int) -> None:
    check_logits(shape, file_type, GPUS[:1], n_gpu_layers=n_gpu_layers)


@pytest.mark.parametrize(("kv_type", "limit"), [("f32", LIMIT), ("f16", LIMIT), ("q8_0", 2e-3), ("q4_0", 3e-1)])
@pytest.mark.parametrize("shape", ["gqa", "cohere2"])
def test_types_of_the_cache(shape: str, kv_type: str, limit: float) -> None:
    golden = models.golden(shape)
    tokens = golden["tokens_a"]
    with (
        Model(models.gguf(shape), n_gpu_layers=-1) as model,
        Session(model, n_ctx=256, type_k=kv_type, type_v=kv_type) as session,
    ):
        session.eval(tokens, n_outputs=len(tokens))
        assert measure.kl_divergence(session.logits()[golden["positions_a"]], golden["logits_a"]) < limit


@pytest.fixture(scope="module")
def loud_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return loud.write(tmp_path_factory.mktemp("loud"))


HALF_SUMS = pytest.mark.xfail("CUDA0" in GPUS, strict=False, reason="CUDA's flash attention adds up in half precision")


@pytest.mark.parametrize("flash_attn", [pytest.param(None, marks=HALF_SUMS), False])
def test_long_sums_of_large_values(loud_files: tuple[Path, Path], flash_attn: bool | None) -> None:
    checkpoint, file = loud_files
    expected = Reference(checkpoint).logits(loud.TOKENS)[-1:]
    with Model(file, n_gpu_layers=-1) as model, Session(model, n_ctx=1024, flash_attn=flash_attn) as session:
        session.eval(loud.TOKENS)
        assert np.isfinite(session.logits()).all()
        assert measure.kl_divergence(session.logits(), expected) < LIMIT


def test_without_flash_attention() -> None:
    golden = models.golden("gqa")
    tokens = golden["tokens_a"]
    with Model(models.gguf("gqa"), n_gpu_layers=-1) as model, Session(model, n_ctx=256, flash_attn=False) as session:
        session.eval(tokens, n_outputs=len(tokens))
        assert measure.kl_divergence(session.logits()[golden["positions_a"]], golden["logits_a"]) < LIMIT


@pytest.mark.parametrize("shape", ["gqa", "cohere2"])
def test_the_cache_of_a_layer_is_on_its_card_and_grows_there(shape: str) -> None:
    path = models.gguf(shape)
    with Model(path) as model, Session(model, n_ctx=4096) as session:
        session.eval(TOKENS)
        expected = session.logits().copy()
    with Model(path, n_gpu_layers=-1) as model, Session(model, n_ctx=4096, n_ubatch=64) as session:
        sizes = []
        for n in (300, 700, len(TOKENS)):
            session.eval(TOKENS[:n])
            kv = [use for use in session.memory() if use.what == "kv"]
            assert {use.device for use in kv} <= set(GPUS)
            sizes.append(sum(use.size for use in kv))
        assert sizes[0] < sizes[1] < sizes[2] <= kv_cache_bytes(model.hparams, 4096)
        assert session.n_reused() == 700
        assert measure.kl_divergence(session.logits(), expected) < 2 * LIMIT


def test_sequences_are_copied_cut_and_batched_on_a_card() -> None:
    items = [TOKENS[:300], np.r_[TOKENS[:200], TOKENS[500:600]], TOKENS[700:760]]
    found = []
    for n_gpu_layers in (0, -1):
        with (
            Model(models.gguf("gqa"), n_gpu_layers=n_gpu_layers) as model,
            Session(model, n_ctx=2048, n_seq_max=4) as session,
        ):
            session.eval(items[0], seq_id=0)
            session.seq_cp(0, 1)
            session.seq_rm(1, 200)
            session.eval_batch([EvalItem(item, seq_id) for seq_id, item in enumerate(items)])
            assert session.n_reused(1) == 200
            found.append([session.logits(seq_id).copy() for seq_id in range(3)])
    for on_cpu, on_gpu in zip(*found, strict=True):
        assert measure.kl_divergence(on_gpu, on_cpu) < LIMIT


def test_a_state_goes_from_a_card_to_the_cpu_and_back(tmp_path: Path) -> None:
    path = models.gguf("cohere2")
    with Model(path) as on_cpu, Model(path, n_gpu_layers=-1) as on_gpu:
        with Session(on_gpu, n_ctx=2048) as session:
            session.eval(TOKENS[:600])
            session.save_state(tmp_path / "gpu")
            session.eval(TOKENS[:601])
            expected = session.logits().copy()
        with Session(on_cpu, n_ctx=2048) as session:
            session.load_state(tmp_path / "gpu")
            session.save_state(tmp_path / "cpu")
            session.eval(TOKENS[:601])
            assert session.n_reused() == 600
            assert measure.kl_divergence(session.logits(), expected) < LIMIT
        with Session(on_gpu, n_ctx=2048) as session:
            session.load_state(tmp_path / "cpu")
            session.eval(TOKENS[:601])
            assert session.n_reused() == 600
            assert measure.kl_divergence(session.logits(), expected) < LIMIT


@pytest.mark.parametrize("n_gpu_layers", [-1, 2])
@pytest.mark.parametrize("shape", models.SHAPES)
def test_what_is_measured_from_a_header_is_what_a_card_holds(shape: str, n_gpu_layers: int) -> None:
    loading: dict[str, Any] = {"n_gpu_layers": n_gpu_layers}
    options: dict[str, Any] = {"n_ctx": 1024, "n_seq_max": 2, "n_ubatch": 128}
    path = models.gguf(shape, "Q4_K")
    with GGUFFile(path) as file:
        predicted = measure_needs(file, loading, options)
    with Model(path, **loading) as model, Session(model, **options) as session:
        session.eval(TOKENS[:1000], n_outputs=0, logits=False)  # the cache and what reads it grow with the cells in use
        allocated = model.memory() + session.memory()
    for name in (*GPUS, "CPU"):
        assert held(predicted, name) == pytest.approx(held(allocated, name), rel=0.03, abs=1024)


@two_gpus
def test_layers_are_shared_out_as_tensor_split_says() -> None:
    tokens = models.golden("gqa")["tokens_a"]
    expected = models.expected_logits("gqa", tokens, "F32")
    with (
        Model(models.gguf("gqa"), n_gpu_layers=4, tensor_split=[3, 1]) as model,
        Session(model, n_ctx=256) as session,
    ):
        sizes = {use.device: use.size for use in model.memory() if use.device in GPUS}
        assert sizes[GPUS[0]] == pytest.approx(3 * sizes[GPUS[1]], rel=0.01)
        assert {use.device for use in session.memory() if use.what == "kv"} == set(GPUS[:2])
        session.eval(tokens, n_outputs=len(tokens))
        assert measure.kl_divergence(session.logits(), expected) < LIMIT


@pytest.fixture(scope="module")
def demo_replies() -> dict[str, Any]:
    with CommandR(embedded.path("Q8_0"), n_gpu_layers=0, n_ctx=4096) as model:
        return replies(model)


def replies(model: CommandR) -> dict[str, Any]:
    documents = list(showcase.DOCUMENTS)
    asked = [{"role": "user", "content": showcase.QUESTION}]
    grounded = model.chat(asked, documents=documents, temperature=0)
    plain = model.chat([{"role": "user", "content": showcase.CHAT}], temperature=0)
    return {"text": grounded.text, "citations": grounded.citations, "plain": plain.text}


@pytest.mark.parametrize("n_gpu_layers", ["auto", 2])
def test_an_answer_with_citations_is_that_of_the_cpu(
    demo_replies: dict[str, Any], n_gpu_layers: Literal["auto"] | int
) -> None:
    with CommandR(embedded.path("Q8_0"), n_gpu_layers=n_gpu_layers, n_ctx=4096) as model:
        assert GPUS[0] in {use.device for use in model.model.memory()}
        assert replies(model) == demo_replies


@pytest.mark.skipif(IS_LAVAPIPE, reason="lavapipe takes minutes")
def test_a_plan_measures_how_fast_a_card_reads_and_computes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(models.gguf("gqa", "Q4_K")), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    [card] = [device for device in report["devices"] if device["device"] == GPUS[0]]
    assert card["read_source"] == card["compute_source"] == "measured"
    assert 1e8 < card["read_bytes_per_second"] < 2e13
    assert f"--gpu-layers {4 + 1}" in report["command"]
