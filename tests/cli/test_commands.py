"""The commands: what goes to standard output, what to stderr, and exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import models
import shapes
from commandr_gguf import CommandR
from commandr_gguf.cli import main
from commandr_gguf.cli.format import shorten, size

COMMANDS = (
    *("chat", "generate", "info", "devices", "bench", "imatrix", "perplexity", "compare", "sensitivity", "convert"),
    "demo",
)


@pytest.fixture(scope="module")
def path() -> str:
    return str(models.gguf("gqa"))


def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "commandr_gguf", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, encoding="utf-8")


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


# ---- help and errors


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "usage" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("option", "value"),
    [("--temperature", "nan"), ("--top-p", "2"), ("--top-k", "-1"), ("--repeat-penalty", "0"), ("--max-tokens", "-3")],
)
@pytest.mark.parametrize("command", ["chat", "generate"])
def test_numbers_out_of_range_are_refused_before_a_model_is_loaded(
    command: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "no-such-file.gguf", option, value]) == 2
    assert f"{option[2:].replace('-', '_')} must be" in capsys.readouterr().err


def test_without_arguments_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    captured = capsys.readouterr()
    assert all(command in captured.out + captured.err for command in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("commandr 0.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["info"],
        ["generate", "x.gguf", "a", "--temperature", "hot"],
        ["bench", "x.gguf", "--no-such-option"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err


@pytest.mark.parametrize("command", ["chat", "generate", "info", "bench"])
def test_an_absent_file_is_one_sentence_and_exit_code_2(command: str) -> None:
    done = run(command, "absent.gguf", stdin="Hello\n")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "absent.gguf" in done.stderr
    assert done.stderr.count("\n") == 1


def test_values_out_of_range_are_named(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", path, "--prompt", "0"]) == 2
    assert "--prompt must be 1 or more" in capsys.readouterr().err
    assert main(["info", path, "--ctx", "-1"]) == 2
    assert "--ctx must be 1 or more" in capsys.readouterr().err


# ---- generate


def test_generate_prints_the_continuation_alone(path: str) -> None:
    with CommandR(path, n_ctx=512) as model:
        expected = model.generate("The harbor", max_tokens=8, temperature=0).text
    options = ("-n", "8", "--temperature", "0", "--ctx", "512")
    for done in (
        run("generate", path, "The harbor", *options),
        run("generate", path, *options, stdin="The harbor\n"),
        run("generate", path, "-", *options, stdin="The harbor"),
    ):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == expected + "\n"


def test_generate_as_json(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["generate", path, "<|USER_TOKEN|>", "--special", "-n", "3", "--json", "--logprobs", "2", "--seed", "1"]
    assert main(command) == 0
    value = json.loads(capsys.readouterr().out)
    usage = {"prompt_tokens": 2, "cached_tokens": 0, "completion_tokens": len(value["tokens"])}
    assert value["usage"] == {**usage, "drafted_tokens": 0, "accepted_tokens": 0}
    assert value["finish_reason"] in ("length", "stop")
    assert len(value["logprobs"]) == len(value["tokens"])
    assert all(len(entry["top"]) == 2 for entry in value["logprobs"])
    assert value["timings"]["prefill_tokens_per_second"] > 0


def test_generate_stops_at_a_text(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with CommandR(path, n_ctx=512) as model:
        free, seed = max((model.generate("a", max_tokens=30, seed=seed).text, seed) for seed in range(8))
    command = ["generate", path, "a", "-n", "30", "--seed", str(seed), "--temperature", "1"]
    middle = len(free) // 2
    stop = free[middle : middle + 2]
    assert len(stop) == 2
    assert main([*command, "--stop", stop, "--stop", "never written"]) == 0
    assert capsys.readouterr().out == free[: free.index(stop)] + "\n"


# ---- chat through a pipe


def test_chat_answers_each_line_of_a_pipe(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with CommandR(path, n_ctx=512) as model:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        first = model.chat(messages, max_tokens=6, temperature=0).text
        messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "two\nlines"}]
        second = model.chat(messages, max_tokens=6, temperature=0).text
    type_in(monkeypatch, "Hello\n\ntwo\\\nlines")
    options = ["-n", "6", "--temperature", "0", "--ctx", "512", "--system", "Be brief."]
    assert main([path, *options]) == 0  # a file alone is a chat
    captured = capsys.readouterr()
    assert captured.out == f"{first}\n{second}\n"
    assert captured.err == ""


def test_a_reply_that_the_context_cuts_is_told_on_stderr(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "Hello")
    assert main(["chat", path, "--ctx", "256", "--temperature", "0"]) == 0
    assert capsys.readouterr().err == "the reply was cut at the end of the context, see --ctx and --context-shift\n"


def test_an_error_ends_a_chat_through_a_pipe(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "Hello " * 200)
    assert main(["chat", path, "--ctx", "256", "--stats"]) == 2
    assert capsys.readouterr().err.startswith("commandr: ")


# ---- info, devices, bench, convert


def test_info(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", path, "--ctx", "1024", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["metadata"]["general.architecture"] == "command-r"
    assert report["metadata"]["tokenizer.ggml.tokens"] == "[768 elements]"
    assert report["metadata"]["tokenizer.chat_templates"] == ["tool_use", "rag"]
    assert report["tensors"]["F32"]["count"] == 34
    assert report["memory"]["n_ctx"] == 1024
    assert report["memory"]["kv_cache"]["f16"] == 2 * 4 * 2 * 32 * 1024 * 2
    assert report["memory"]["weights"] == sum(entry["bytes"] for entry in report["tensors"].values())
    assert main(["info", path]) == 0
    text = capsys.readouterr().out
    assert "KV cache of 131072 tokens" in text
    assert "command-r.attention.head_count" in text


def test_info_of_another_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert main(["info", str(tmp_path / "other.gguf"), "--json"]) == 0
    assert "memory" not in json.loads(capsys.readouterr().out)


def test_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "cpu" in [device["type"] for device in report["devices"]]
    assert report["n_threads"] >= 1
    assert main(["devices"]) == 0
    assert "CPU" in capsys.readouterr().out


def test_bench(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", path, "--prompt", "32", "--generate", "4", "--threads", "2", "--repetitions", "2"]
    assert main([*command, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    for key in (
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "read_bytes_per_second",
        "peak_memory_bytes",
        "load_seconds",
        "weight_bytes",
    ):
        assert report[key] > 0, key
    assert (report["n_prompt"], report["n_generate"], report["n_threads"]) == (32, 4, 2)
    assert len(report["prefill_seconds"]) == len(report["decode_seconds"]) == 2
    assert main(command) == 0
    assert "bandwidth" in capsys.readouterr().out


def test_convert(tmp_path: Path) -> None:
    checkpoint = shapes.write_checkpoint(tmp_path / "checkpoint", "gqa", n_layers=1)
    done = run("convert", str(checkpoint), "-o", str(tmp_path / "x.gguf"), "--type", "Q8_0")
    assert done.returncode == 0, done.stderr
    direct = models.convert(checkpoint, tmp_path / "y.gguf", "Q8_0")
    assert (tmp_path / "x.gguf").read_bytes() == direct.read_bytes()
    failed = run("convert", str(tmp_path / "absent"))
    assert failed.returncode == 2
    assert "absent" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_numbers_for_people() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1.5 * 2**30, 2**50)] == [
        "0 B",
        "1023 B",
        "1.00 KiB",
        "1.50 GiB",
        "1024.00 TiB",
    ]
    assert shorten("a\n  b", 9) == "a b"
    assert shorten("abcdef", 4) == "abc…"
