"""The commands that measure: perplexity, compare and sensitivity."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kl_models
import models
import tiny_models
from commandr_gguf.cli import main
from commandr_gguf.cli.scores import finite

CTX = ("--ctx", "32")
LLAMA_CPP = json.loads((models.GOLDEN / "kl.json").read_text())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(kl_models.text(), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def full() -> str:
    return str(kl_models.base_model())


@pytest.fixture(scope="module")
def small() -> str:
    return str(models.gguf("gqa", "Q4_K_M"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


# ---- perplexity


def test_perplexity_prints_llama_cpps_figures(full: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "perplexity", full, text, "--ctx", "64", "--type-k", "f32", "--type-v", "f32")
    assert found["perplexity"] == pytest.approx(LLAMA_CPP["base"]["perplexity"], rel=1e-5)
    assert found["perplexity_error"] == pytest.approx(LLAMA_CPP["base"]["perplexity_error"], rel=1e-5)
    assert (found["n_ctx"], found["n_chunks"], found["n_tokens"]) == (64, 11, 341)


def test_two_models_are_compared_by_a_file(
    full: str, small: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(tmp_path / "base")
    assert main(["perplexity", full, text, *CTX, "--chunks", "4", "--save-kl-base", base]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "60 tokens scored in 4 chunks of 32"
    without_text = run(capsys, "perplexity", small, "--kl-base", base)
    with_text = run(capsys, "perplexity", small, text, "--kl-base", base, *CTX)
    assert without_text == with_text
    assert 0.01 < without_text["kl_mean"] < 1
    assert without_text["n_chunks"] == 4
    assert run(capsys, "perplexity", small, "--kl-base", base, "--chunks", "2")["n_chunks"] == 2
    assert main(["perplexity", small, "--kl-base", base]) == 0
    lines = capsys.readouterr().out.splitlines()
    labels = ("perplexity", "of the base", "ratio", "mean KL", "median", "99 %", "99.9 %", "maximum", "same top")
    assert [line[:12].strip() for line in lines[1:]] == list(labels)
    assert lines[4].split()[2:] == [f"{with_text['kl_mean']:.6f}", "±", f"{with_text['kl_mean_error']:.6f}"]


def test_one_chunk_is_told_in_the_singular(full: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["perplexity", full, text, *CTX, "--chunks", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "15 tokens scored in 1 chunk of 32"


def test_a_base_can_be_compared_with_and_another_written_in_one_run(
    full: str, small: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    run(capsys, "perplexity", full, text, *CTX, "--chunks", "2", "--save-kl-base", a)
    run(capsys, "perplexity", small, "--kl-base", a, "--save-kl-base", b)
    found = run(capsys, "perplexity", small, "--kl-base", b)
    assert abs(found["kl_mean"]) < 1e-4


def test_nothing_that_is_read_is_replaced(
    full: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(full)
    base = str(models.GOLDEN / "kl-base.bin")
    for output in (full, text, base, str(link)):
        sentence = f"--save-kl-base {output} would replace what is read"
        assert sentence in refuse(capsys, "perplexity", full, text, "--kl-base", base, "--save-kl-base", output)
    for output in (full, text, str(link)):
        assert f"--output {output} would replace what is read" in refuse(capsys, *measure(full, text, Path(output)))


def test_what_cannot_be_measured_is_one_sentence(
    full: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    base = str(models.GOLDEN / "kl-base.bin")
    for arguments, sentence in (
        ((full,), "there is no TEXT, and no --kl-base"),
        ((full, "absent.txt"), "absent.txt: the text cannot be read: No such file"),
        ((full, str(latin)), "latin.txt: the file is no text in UTF-8: unexpected end of data at byte 3"),
        ((full, str(short)), "short.txt: the text has "),
        ((full, text, "--ctx", "4"), "--ctx must be 8 or more, not 4"),
        ((full, text, "--threads", "-1"), "--threads must be 0 or more, not -1"),
        ((full, text, "--chunks", "0"), "--chunks must be 1 or more, not 0"),
        ((full, "--kl-base", text), "text.txt: this is no file of log-probabilities"),
        (
            (full, "--kl-base", base, "--ctx", "32"),
            "kl-base.bin: the base was made with a context of 64 tokens, not 32",
        ),
        ((full, str(models.GOLDEN / "kl.json"), "--kl-base", base), "kl-base.bin: the base was made of another text"),
        ((full, text, "--save-kl-base", "absent/base"), "--save-kl-base absent/base: its folder does not exist"),
    ):
        assert sentence in refuse(capsys, "perplexity", *arguments)


def test_a_base_of_another_vocabulary_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    content = bytearray((models.GOLDEN / "kl-base.bin").read_bytes())
    content[12:16] = (770).to_bytes(4, "little")
    content += bytes(2 * 31 * 2)
    path = tmp_path / "other"
    path.write_bytes(content)
    sentence = refuse(capsys, "perplexity", str(models.gguf("gqa")), "--kl-base", str(path))
    assert "the base has a vocabulary of 770 tokens, the model one of 768" in sentence


def test_a_full_disk_leaves_no_base(full: str, text: str, tmp_path: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000));"
        "from commandr_gguf.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "perplexity", full, text, "--save-kl-base", str(tmp_path / "base"), *CTX]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "base: the base cannot be written: File too large" in done.stderr
    assert not list(tmp_path.iterdir())


# ---- compare


def test_compare_tells_types_sizes_and_errors(full: str, small: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "compare", full, small)
    tensors = {entry["name"]: entry for entry in found["tensors"]}
    assert len(tensors) == 34
    entry = tensors["blk.0.attn_q.weight"]
    assert entry["a"] == {"type": "F32", "shape": [256, 256], "bytes": 4 * 256 * 256}
    assert entry["b"] == {"type": "Q4_K", "shape": [256, 256], "bytes": 144 * 256}
    assert 0.05 < entry["relative_rms_error"] < 0.1
    assert 0.99 < entry["cosine"] < 1
    assert tensors["output_norm.weight"]["relative_rms_error"] == 0
    total = found["total"]
    assert total["a"]["bits_per_weight"] == 32
    assert total["b"]["bytes"] == sum(entry["b"]["bytes"] for entry in found["tensors"])
    assert 0.02 < total["relative_rms_error"] < 0.1
    assert "text" not in found


def test_compare_sorts_the_worst_or_the_largest_first(
    full: str, small: str, capsys: pytest.CaptureFixture[str]
) -> None:
    by_error = [
        entry["relative_rms_error"] for entry in run(capsys, "compare", full, small, "--sort", "error")["tensors"]
    ]
    assert by_error == sorted(by_error, reverse=True)
    by_size = [entry["a"]["bytes"] for entry in run(capsys, "compare", full, small, "--sort", "size")["tensors"]]
    assert by_size == sorted(by_size, reverse=True)


def test_compare_prints_whole_lines_for_programs(full: str, small: str) -> None:
    command = [sys.executable, "-m", "commandr_gguf", "compare", full, small]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "40"})
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    row = next(line.split() for line in lines if line.startswith("blk.3.ffn_down.weight"))
    assert row[1:4] == ["512x256", "F32", "Q6_K"]
    assert lines[-3].split() == ["A", "9.25", "MiB", "32.00", "bits", "per", "weight"]
    assert lines[-1].startswith("error ")


def test_compare_on_a_text_is_perplexity_with_a_base(
    full: str, small: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = str(tmp_path / "base")
    run(capsys, "perplexity", full, text, *CTX, "--chunks", "3", "--save-kl-base", base)
    expected = run(capsys, "perplexity", small, "--kl-base", base)
    del expected["model"]
    assert run(capsys, "compare", full, small, "--text", text, *CTX, "--chunks", "3")["text"] == expected
    assert main(["compare", full, small, "--text", text, *CTX, "--chunks", "3"]) == 0
    assert f"mean KL      {expected['kl_mean']:12.6f}" in capsys.readouterr().out


def test_compare_leaves_no_temporary_files(
    full: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(capsys, "compare", full, full, "--text", text, *CTX, "--chunks", "1")
    assert not list(tmp_path.iterdir())


def test_compare_reports_other_shapes_and_absent_tensors(full: str, capsys: pytest.CaptureFixture[str]) -> None:
    other = str(models.gguf("cohere2"))
    tensors = {entry["name"]: entry for entry in run(capsys, "compare", full, other)["tensors"]}
    assert tensors["blk.7.attn_q.weight"]["a"] is None
    assert tensors["blk.7.attn_q.weight"]["relative_rms_error"] is None
    assert main(["compare", other, full]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line.split() for line in lines if line.startswith("blk.7.attn_q.weight"))[-4:] == [
        *("F32", "absent", "256.00", "KiB"),
    ]


def test_compare_on_a_text_needs_one_vocabulary(
    full: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = Path(full).read_bytes()
    other = tmp_path / "other.gguf"
    token = b"<|START_OF_TURN_TOKEN|>"
    assert content.count(token) >= 1
    other.write_bytes(content.replace(token, token.replace(b"TURN", b"TORN"), 1))
    sentence = refuse(capsys, "compare", full, str(other), "--text", text)
    assert "have different vocabularies, so that --text cannot compare them" in sentence
    run(capsys, "compare", full, str(other))


def test_compare_needs_something_in_common(full: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.gguf"
    content = Path(full).read_bytes()
    other.write_bytes(
        content.replace(b"blk.", b"BLK.").replace(b"token_embd.w", b"x" * 12).replace(b"output_n", b"OUTPUT_N")
    )
    sentence = refuse(capsys, "compare", full, str(other))
    assert f"{full} and {other} have no tensor in common, of one name and shape" in sentence


def test_compare_refuses_files_that_are_no_models(
    full: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = tmp_path / "x.imatrix.gguf"
    tiny_models.llama_cpp_imatrix("gqa").write(matrix)
    untyped = tmp_path / "untyped.gguf"
    untyped.write_bytes(Path(full).read_bytes().replace(b"general.architecture", b"general.Architecture"))
    for path, fault in (
        (matrix, "no model: its general.type is imatrix\n"),
        (untyped, "untyped.gguf: the GGUF file is no model\n"),
    ):
        for files in ((full, str(path)), (str(path), full), (str(path), str(path))):
            assert fault in refuse(capsys, "compare", *files)


def test_compare_refuses_options_of_a_text_without_one(full: str, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--ctx", "--chunks"):
        assert f"{option} says how a text is read: give one with --text" in refuse(
            capsys, "compare", full, full, option, "9"
        )


def test_an_unknown_order_is_told_with_the_known_ones(full: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", full, full, "--sort", "foo"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'--sort': 'foo' is not one of file, error, size" in said


# ---- sensitivity


def measure(model: str, text: str, out: Path, *arguments: str) -> list[str]:
    return ["sensitivity", model, text, "-o", str(out), *CTX, "--chunks", "2", *arguments]


def test_sensitivity_writes_every_matrix(
    full: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.json"
    assert main(measure(full, text, out, "--type", "q3_k")) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "29 of 29 tensors to measure on 30 tokens" in captured.err
    content = json.loads(out.read_text())
    assert (content["format"], content["version"]) == ("commandr-sensitivity", 1)
    assert (content["model"], content["n_tokens"]) == (Path(full).name, 30)
    assert len(content["tensors"]) == 29
    for entry in content["tensors"].values():
        assert entry["type"] == "Q3_K"
        assert entry["kl"] > 0
        assert 0.01 < entry["relative_error"] < 0.1
    assert main(measure(full, text, out, "--type", "Q3_K")) == 0
    assert capsys.readouterr().err == f"commandr: {out}: all 29 tensors are measured\n"


def test_a_stopped_measurement_goes_on_and_ends_with_the_same_file(full: str, text: str, tmp_path: Path) -> None:
    out, whole = tmp_path / "x.json", tmp_path / "whole.json"
    command = [sys.executable, "-m", "commandr_gguf"]
    subprocess.run([*command, *measure(full, text, whole)], check=True, capture_output=True)
    with subprocess.Popen([*command, *measure(full, text, out)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "3/29" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert process.returncode == 130
    begun = json.loads(out.read_text())["tensors"]
    assert 3 <= len(begun) < 29
    done = subprocess.run([*command, *measure(full, text, out)], check=True, capture_output=True, text=True)
    assert f"{29 - len(begun)} of 29 tensors to measure" in done.stderr
    assert out.read_bytes() == whole.read_bytes()


def test_sensitivity_refuses_what_it_cannot_measure(
    full: str, small: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.json"
    for arguments, sentence in (
        (measure(small, text, out), "is stored in Q4_K: what Q4_K does to it"),
        (measure(full, text, out, "--type", "IQ1_S"), "IQ1_S needs an importance matrix"),
        (measure(full, text, out, "--type", "f32"), "--type F32 is not a quantized type: there is no rounding to"),
        (measure(full, text, out, "--type", "Q9_K"), "no ggml type named 'Q9_K'"),
        (measure(full, text, tmp_path / "absent" / "x.json"), "absent/x.json: its folder does not exist"),
        (
            measure(full, text, models.GOLDEN / "kl-base.bin"),
            "kl-base.bin: this is no file of sensitivities: it is not JSON\n",
        ),
    ):
        assert sentence in refuse(capsys, *arguments)
    assert not out.exists()


# ---- JSON


def test_json_has_null_for_what_is_no_number() -> None:
    assert finite({"a": [math.nan, 1.5], "b": {"c": math.inf}, "d": 3, "e": "x"}) == {
        "a": [None, 1.5],
        "b": {"c": None},
        "d": 3,
        "e": "x",
    }
