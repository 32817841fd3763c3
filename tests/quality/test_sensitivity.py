"""One matrix at a time is rounded, its effect measured, and put back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kl_models
import models
from commandr_gguf import Model, Tokenizer
from commandr_gguf.errors import ArgumentError, FileError, FormatError, UnsupportedError
from commandr_gguf.gguf_file import GGUFFile, TensorInfo
from commandr_gguf.quality.chunks import Chunks, cut_text
from commandr_gguf.quality.evaluate import open_session, scored_logits
from commandr_gguf.quality.log_probs import log_sum_exp
from commandr_gguf.quality.sensitivity import Probe, Sensitivity, measure, plan_probes
from commandr_gguf.quality.sensitivity_file import Subject, read_sensitivities, write_sensitivities
from commandr_gguf.quantize import dequantize_rows, quantize_rows
from split_files import split

LOADING: dict[str, Any] = {"use_mmap": False, "repack": False, "n_threads": 1}
NAMES = ("token_embd.weight", "blk.2.ffn_down.weight")


def tensors_of(path: Path) -> dict[str, TensorInfo]:
    with GGUFFile(path) as file:
        return {tensor.name: tensor for tensor in file.tensors}


def weights(path: Path, tensor: TensorInfo) -> np.ndarray[Any, np.dtype[np.float32]]:
    raw = np.fromfile(path, np.uint8, tensor.size, offset=tensor.offset)
    return dequantize_rows(tensor.type, raw.reshape(tensor.shape[1], -1), tensor.shape[0])


def chunks_of(path: Path, n_chunks: int = 3) -> Chunks:
    return cut_text(kl_models.text(), Tokenizer.from_gguf(path), 32).limit(n_chunks)


def log_probs(model: Model, chunks: Chunks) -> np.ndarray[Any, np.dtype[np.float64]]:
    with open_session(model, chunks, n_threads=1) as session:
        parts = [logits for i in range(len(chunks)) for _, logits in scored_logits(session, chunks, i)]
    logits = np.concatenate(parts)
    return logits - log_sum_exp(logits)[:, None]


@pytest.mark.parametrize("file_type", ["F32", "BF16", "Q8_0"])
def test_a_probe_measures_the_divergence_of_the_model_with_that_tensor_rounded(file_type: str) -> None:
    path = models.gguf("gqa", file_type)
    # One chunk: nothing that was computed with other weights may be used again for the same tokens.
    tensors, chunks = tensors_of(path), chunks_of(path, 1)
    with Model(path, **LOADING) as model:
        found = dict(measure(model, chunks, [Probe(tensors[name], "Q4_K") for name in NAMES], n_threads=1))
        before = log_probs(model, chunks)
        for name in NAMES:
            exact = weights(path, tensors[name])
            rounded = dequantize_rows("Q4_K", quantize_rows("Q4_K", exact), exact.shape[1])
            stored = quantize_rows(tensors[name].type, rounded)
            model.set_tensor(name, stored)
            after = log_probs(model, chunks)
            model.set_tensor(name, quantize_rows(tensors[name].type, exact))
            kl = (np.exp(before) * (before - after)).sum(axis=1).mean()
            change = dequantize_rows(tensors[name].type, stored, exact.shape[1]) - exact
            expected = float(np.square(change, dtype=float).sum() / np.square(exact, dtype=float).sum())
            assert found[name].type == "Q4_K"
            assert found[name].kl == pytest.approx(kl, rel=2e-3)
            assert found[name].relative_error == pytest.approx(expected, rel=1e-5)
            assert 0.001 < expected < 0.02


@pytest.mark.parametrize("parts", [1, 3])
def test_the_model_is_as_it_was_afterwards(parts: int, tmp_path: Path) -> None:
    path = models.gguf("gqa", "BF16")
    if parts > 1:
        path = split(path, tmp_path, 12)[0]
    chunks = chunks_of(path)
    with Model(path, **LOADING) as model:
        before = log_probs(model, chunks)
        assert len(list(measure(model, chunks, plan_probes(model.gguf.tensors, "Q2_K")[:3]))) == 3
        np.testing.assert_array_equal(log_probs(model, chunks), before)


def test_progress_counts_the_chunks_of_every_evaluation() -> None:
    path = models.gguf("gqa", "BF16")
    seen: list[int] = []
    with Model(path, **LOADING) as model:
        probes = plan_probes(model.gguf.tensors, "Q4_K")[:2]
        list(measure(model, chunks_of(path), probes, progress=seen.append))
    assert seen == list(range(1, 3 * 3 + 1))


# ---- what is measured


def tensor(name: str, shape: tuple[int, ...], ggml_type: str = "BF16") -> TensorInfo:
    return TensorInfo(name, ggml_type, shape, "model.gguf", 0, 2 * math.prod(shape))


def test_every_matrix_is_measured_and_no_norm() -> None:
    tensors = [
        tensor("token_embd.weight", (512, 1000)),
        tensor("blk.0.attn_q.weight", (512, 512)),
        tensor("blk.0.attn_q_norm.weight", (128, 4), "F32"),
        tensor("blk.0.attn_norm.weight", (512,), "F32"),
    ]
    assert [probe.tensor.name for probe in plan_probes(tensors, "Q4_K")] == ["token_embd.weight", "blk.0.attn_q.weight"]


def test_rows_that_are_no_whole_number_of_blocks_are_rounded_to_smaller_ones() -> None:
    tensors = [tensor("a.weight", (512, 2)), tensor("b.weight", (288, 2)), tensor("c.weight", (300, 2))]
    assert [(probe.tensor.name, probe.type) for probe in plan_probes(tensors, "Q6_K")] == [
        ("a.weight", "Q6_K"),
        ("b.weight", "Q4_0"),
    ]


@pytest.mark.parametrize(("stored", "wanted"), [("Q4_K", "Q4_K"), ("Q4_K", "Q6_K"), ("Q8_0", "Q8_0")])
def test_a_source_of_no_more_bits_is_refused(stored: str, wanted: str) -> None:
    with pytest.raises(UnsupportedError, match=f"a.weight is stored in {stored}: what {wanted} does.*, such as BF16$"):
        plan_probes([tensor("a.weight", (512, 2), stored)], wanted)


def test_types_that_need_an_importance_matrix_are_refused() -> None:
    with pytest.raises(ArgumentError, match="IQ2_XXS needs an importance matrix"):
        plan_probes([tensor("a.weight", (512, 2))], "IQ2_XXS")


@pytest.mark.parametrize("wanted", ["F32", "F16", "BF16"])
def test_types_that_round_nothing_are_refused_without_other_advice(wanted: str) -> None:
    with pytest.raises(
        ArgumentError, match=f"--type {wanted} is not a quantized type: there is no rounding to"
    ) as told:
        plan_probes([tensor("a.weight", (512, 2), "BF16")], wanted)
    assert "more bits" not in str(told.value)


# ---- the file

SUBJECT = Subject("model.gguf", "ab" * 32, "Q4_K", 512, 2040)
FOUND = {
    "token_embd.weight": Sensitivity("Q4_K", 0.005, 0.0125),
    "blk.0.attn_q.weight": Sensitivity("Q4_0", 0.01, 1e-9),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_sensitivities(path, SUBJECT) == {}
    write_sensitivities(path, SUBJECT, FOUND)
    assert read_sensitivities(path, SUBJECT) == FOUND
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": "other.gguf"}, "begun with model = 'model.gguf', now 'other.gguf'"),
        ({"text_sha256": "cd"}, "begun with text_sha256 = "),
        ({"type": "Q3_K"}, "begun with type = 'Q4_K', now 'Q3_K'"),
        ({"n_ctx": 256}, "begun with n_ctx = 512, now 256"),
        ({"n_tokens": 255}, "begun with n_tokens = 2040, now 255; choose another output, or delete it"),
    ],
)
def test_results_of_another_measurement_are_not_continued(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    write_sensitivities(tmp_path / "x.json", SUBJECT, FOUND)
    other = Subject(**(vars(SUBJECT) | change))
    with pytest.raises(ArgumentError, match=f"x.json: it was {sentence}"):
        read_sensitivities(tmp_path / "x.json", other)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no file of sensitivities: it is not JSON$"),
        (b"\xff\xfe", "no file of sensitivities: it is not JSON$"),
        (b"GGUF\3\0\0\0\x80", "no file of sensitivities: it is not JSON$"),
        (b"[" * 100_000, "no file of sensitivities: it is not JSON$"),
        (b"[1]", "no file of sensitivities, version 1"),
        (b'{"format": "commandr-sensitivity", "version": 2}', "no file of sensitivities, version 1"),
    ],
)
def test_other_files_are_refused_and_kept(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=sentence):
        read_sensitivities(path, SUBJECT)
    assert path.read_bytes() == content


@pytest.mark.parametrize("entry", ['{"type": "Q4_K"}', "3", '{"type": "Q4_K", "relative_error": 1, "kl": NaN}'])
def test_tensors_of_another_form_are_refused(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "x.json"
    write_sensitivities(path, SUBJECT, {})
    path.write_text(path.read_text().replace('"tensors": {}', f'"tensors": {{"a": {entry}}}'))
    with pytest.raises(FormatError, match="its tensors are not what this program writes"):
        read_sensitivities(path, SUBJECT)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="absent/x.json: the sensitivities cannot be written: No such file"):
        write_sensitivities(tmp_path / "absent" / "x.json", SUBJECT, {})
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        read_sensitivities(tmp_path, SUBJECT)
