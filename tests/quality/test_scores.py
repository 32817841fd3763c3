"""Perplexity and divergence of models, beside llama.cpp's figures and plain arithmetic on the logits."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kl_models
import models
from commandr_gguf import Model, Session, Tokenizer
from commandr_gguf.errors import BackendError
from commandr_gguf.quality import evaluate
from commandr_gguf.quality.base_file import BaseReader, write_base
from commandr_gguf.quality.chunks import Chunks, cut_text
from commandr_gguf.quality.evaluate import open_session, rows_per_group
from commandr_gguf.quality.scores import Estimate, Scores, score

LLAMA_CPP = json.loads((models.GOLDEN / "kl.json").read_text())
EXACT: dict[str, Any] = {"type_k": "f32", "type_v": "f32", "flash_attn": False, "n_threads": 1}


def cut(n_ctx: int = kl_models.N_CTX) -> Chunks:
    return cut_text(kl_models.text(), Tokenizer.from_gguf(kl_models.base_model()), n_ctx)


def run(path: Path, chunks: Chunks, base: Path | None = None, save: Path | None = None) -> Scores:
    with Model(path, n_threads=1) as model, open_session(model, chunks, **EXACT) as session:
        if save is not None:
            with write_base(save, chunks, model.hparams.n_vocab) as writer:
                return score(session, chunks, save=writer)
        if base is not None:
            with BaseReader(base) as reader:
                return score(session, chunks, base=reader)
        return score(session, chunks)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores") / "base"
    run(kl_models.base_model(), cut(), save=path)
    return path


# ---- llama.cpp's figures


def test_perplexity_is_llama_cpps() -> None:
    found = run(kl_models.base_model(), cut()).perplexity
    expected = LLAMA_CPP["base"]
    assert found.value == pytest.approx(expected["perplexity"], rel=2e-6)
    assert found.error == pytest.approx(expected["perplexity_error"], rel=2e-6)


def test_divergence_is_llama_cpps(base: Path) -> None:
    found = run(kl_models.other_model(), cut(), base=base).summary()
    for name, expected in LLAMA_CPP["other"].items():
        assert found[name] == pytest.approx(expected, rel=1e-5, abs=2e-6 if name != "same_top" else 1e-5), name


def test_a_base_file_of_llama_cpp_is_the_one_that_we_write(tmp_path: Path) -> None:
    chunks = cut().limit(1)
    run(kl_models.base_model(), chunks, save=tmp_path / "ours")
    theirs = models.GOLDEN / "kl-base.bin"
    assert (tmp_path / "ours").stat().st_size == theirs.stat().st_size
    with BaseReader(theirs) as expected, BaseReader(tmp_path / "ours") as found:
        assert found.tokens.tolist() == expected.tokens.tolist()
        rows = slice(0, chunks.n_scored)
        ours, llama = (reader.read(0, rows) for reader in (found, expected))
        params = [codes[:, :4].copy().view(np.float32) for codes in (ours, llama)]
        np.testing.assert_allclose(params[0], params[1], rtol=1e-5)
        # The logits differ in their last bits, so codes between two steps may go either way.
        assert np.abs(ours[:, 4:].astype(int) - llama[:, 4:].astype(int)).max() <= 1
    assert run(kl_models.base_model(), chunks, base=theirs).summary()["kl_max"] < 1e-4


# ---- plain arithmetic


def test_each_token_is_scored_by_the_logits_before_it() -> None:
    chunks = cut(33).limit(2)
    found = run(kl_models.base_model(), chunks)
    expected = []
    for i in range(2):
        logits = models.expected_logits("gqa", chunks.evaluated(i))
        for position in range(16, 32):
            row = logits[position]
            total = math.log(math.fsum(math.exp(x) for x in row))
            expected.append(total - row[chunks.tokens[i, position + 1]])
    np.testing.assert_allclose(found.nll, expected, atol=2e-4)


def test_groups_of_rows_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = cut(50).limit(2)
    whole = run(kl_models.base_model(), chunks)
    monkeypatch.setattr(evaluate, "_GROUP_BYTES", 1)
    monkeypatch.setattr(evaluate, "_LEAST_ROWS", 7)
    np.testing.assert_allclose(run(kl_models.base_model(), chunks).nll, whole.nll, atol=1e-4)


def test_groups_are_small_where_the_vocabulary_is_large() -> None:
    assert rows_per_group(256_000, 255) * 256_000 * 4 <= 128 << 20
    assert rows_per_group(4096, 255) == 255
    assert rows_per_group(1 << 30, 255) == 16


def test_standard_errors_are_those_of_independent_tokens() -> None:
    values = np.random.default_rng(0).normal(size=40)
    found = Estimate.mean(values)
    assert found.value == pytest.approx(statistics.fmean(values))
    assert found.error == pytest.approx(statistics.stdev(values) / math.sqrt(40))
    power = found.exp()
    assert power.value == pytest.approx(math.exp(found.value))
    assert power.error == pytest.approx(power.value * found.error)


def test_the_ratio_knows_that_both_models_read_the_same_tokens(base: Path) -> None:
    found = run(kl_models.other_model(), cut(), base=base)
    assert found.divergence is not None
    figures = found.summary()
    change = found.nll - found.divergence.base_nll
    ratio = math.exp(statistics.fmean(change))
    assert figures["perplexity_ratio"] == pytest.approx(ratio)
    assert figures["perplexity_ratio_error"] == pytest.approx(ratio * statistics.stdev(change) / math.sqrt(len(change)))
    assert figures["perplexity_ratio_error"] < 0.1 * figures["perplexity_error"] / figures["perplexity"]
    share = figures["same_top"]
    assert figures["same_top_error"] == pytest.approx(math.sqrt(share * (1 - share) / (len(change) - 1)))
    assert figures["kl_median"] == pytest.approx(statistics.median(found.divergence.kl))


def test_a_model_is_as_good_as_itself(base: Path) -> None:
    found = run(kl_models.base_model(), cut(), base=base)
    figures = found.summary()
    assert abs(figures["kl_mean"]) < 1e-5
    assert figures["kl_max"] < 2.5e-4
    assert 0 <= found.small_kl < 1e-8
    assert figures["same_top"] > 0.99


def test_a_perplexity_that_is_no_float_is_infinite() -> None:
    assert Scores(np.array([1e3, 1e3]), None).summary()["perplexity"] == math.inf
    assert math.isnan(Scores(np.array([1.0, 2.0]), None).small_kl)


def test_progress_tells_the_perplexity_so_far() -> None:
    chunks = cut(33).limit(3)
    seen: list[tuple[int, float]] = []
    with Model(kl_models.base_model()) as model, open_session(model, chunks, **EXACT) as session:
        scores = score(session, chunks, progress=lambda done, value: seen.append((done, value)))
    assert [done for done, _ in seen] == [1, 2, 3]
    assert seen[0][1] == pytest.approx(math.exp(scores.nll[:16].mean()))
    assert seen[-1][1] == pytest.approx(scores.perplexity.value)


def test_logits_that_are_no_numbers_are_refused() -> None:
    chunks = cut(33)
    with Model(kl_models.base_model(), use_mmap=False, repack=False) as model:
        model.set_tensor("output_norm.weight", np.full(256, np.nan, np.float32))
        sentence = r"gqa-F32\.gguf: logits of chunk 1 are infinite or not a number"
        with open_session(model, chunks) as session, pytest.raises(BackendError, match=sentence):
            score(session, chunks)


def test_a_session_is_as_large_as_a_chunk() -> None:
    chunks = cut(33)
    with Model(kl_models.base_model()) as model, open_session(model, chunks, **EXACT) as session:
        assert isinstance(session, Session)
        assert session.n_ctx == 33
