"""`commandr plan`, the options that it names, and `commandr devices`."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import models
from commandr_gguf import CommandR, Device, OutOfMemoryError, devices
from commandr_gguf.cli import main
from commandr_gguf.cli.devices import lacking
from commandr_gguf.cli.flags import in_options
from commandr_gguf.plan import host
from commandr_gguf.plan.hollow import write_hollow
from commandr_gguf.plan.shapes import SHAPES

GIB = 1 << 30
HAS_GPU = any(device.type in ("gpu", "igpu") for device in devices())
DESCRIBED = ["--vram", "24G", "--ram", "64G", "--bandwidth", "936G"]


def report(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_published_model_on_a_described_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(["--shape", "command-r-08-2024", *DESCRIBED], capsys)
    assert found["fits"]
    assert [device["device"] for device in found["devices"]] == ["RAM", "GPU0"]
    assert [device["read_source"] for device in found["devices"]] == ["assumed", "given"]
    gpu = found["plan"]["shares"][1]
    assert gpu["total"] == gpu["weights"] + gpu["head"] + gpu["kv"] + gpu["compute"] <= 24 * GIB
    assert found["command"].startswith("commandr chat command-r-08-2024-Q4_K_M.gguf --ctx 32768 --gpu-layers 41 ")


def test_people_read_a_table_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--shape", "command-r-v01", *DESCRIBED]) == 0
    out = capsys.readouterr().out
    assert "KV cache" in out
    assert "GPU0: reads 936 GB/s (given; decoding is taken to reach 65% of it), computes 37440 GFLOP/s (assumed)" in out
    assert out.splitlines()[-1].startswith("commandr chat command-r-v01-Q4_K_M.gguf --ctx ")


@pytest.mark.skipif(HAS_GPU, reason="needs a machine without a GPU")
def test_this_machine_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = report([str(models.gguf("gqa", "Q4_K_M")), "--ctx", "512"], capsys)
    [device] = found["devices"]
    assert device["read_source"] == device["compute_source"] == "measured"
    assert device["read_bytes_per_second"] > 1e8
    assert device["operations_per_second"] > 1e8
    assert found["plan"]["n_ctx"] == 512


@pytest.mark.skipif(HAS_GPU, reason="needs a machine without a GPU")
def test_what_is_planned_is_what_the_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    path = models.gguf("cohere2", "Q4_K_M")
    found = report([str(path), "--ctx", "2048", "--type-k", "q8_0"], capsys)
    [share] = found["plan"]["shares"]
    with CommandR(path, **found["arguments"]) as model:
        taken = {use.what: 0 for use in model.session.memory()}
        for use in model.session.memory():
            taken[use.what] += use.size
        weights = sum(use.size for use in model.model.memory())
    assert taken["kv"] + taken["kv-reserved"] == pytest.approx(share["kv"], rel=0.03)
    assert taken["compute"] == pytest.approx(share["compute"], rel=0.03)
    assert weights == share["weights"] + share["head"]


@pytest.mark.parametrize("extra", [["--vram", "8G"], ["--vram", "8G", "--vram", "12G"], []])
def test_every_command_has_the_options_that_a_plan_names(
    extra: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def load(_path: Path, **options: Any) -> None:
        given.append(options)
        raise OutOfMemoryError("enough is known")

    monkeypatch.setattr("commandr_gguf.cli.loading.CommandR", load)
    for shape in ("command-r-08-2024", "command-r-v01"):
        found = report(["--shape", shape, "--ram", "31G", *extra, "--ctx", "16384"], capsys)
        command = shlex.split(found["command"])[1:]
        assert main(command) == 2
        assert found["arguments"].items() <= given[-1].items()


def test_what_does_not_fit_is_said_with_by_how_much_and_what_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--shape", "command-r-v01", "--ram", "32G", "--ctx", "131072", "--json"]) == 2
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert not found["fits"]
    assert found["missing"] > 148 * GIB
    assert found["plan"]["n_ctx"] == 16384
    assert "it takes 180.41 GiB with 131072 tokens of context and a cache in F16, 148.91 GiB more than" in captured.err


def test_nothing_may_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--shape", "command-a", "--ram", "16G"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "Nothing that fits was found.\n"
    assert "command-a-Q4_K_M.gguf does not fit" in captured.err
    assert "; as " not in captured.err


def test_a_smaller_type_that_fits_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(["--shape", "command-r-08-2024", "--ram", "17G"], capsys, 2)
    assert found["type_that_fits"] == "Q3_K_M"
    assert found["problem"].endswith("; as Q3_K_M it fits with 4096 tokens")


def test_a_context_is_counted_in_k_or_the_models_own(capsys: pytest.CaptureFixture[str]) -> None:
    for text, n_ctx in (("16K", 16384), ("0", 131072)):
        assert report(["--shape", "command-r7b", "--ram", "64G", "--ctx", text], capsys)["plan"]["n_ctx"] == n_ctx
    assert main(["plan", "--shape", "aya-8b", "--ram", "64G", "--ctx", "32K"]) == 0
    assert "--ctx 32768 is beyond the 8192 tokens that the model was trained for" in capsys.readouterr().err


def test_a_file_whose_name_begins_with_a_dash_is_no_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_hollow(Path("-m.gguf"), SHAPES["command-r7b"], "Q4_K_M")
    found = report(["--ram", "64G", "--ctx", "4096", "./-m.gguf"], capsys)
    assert found["command"].startswith("commandr chat ./-m.gguf ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give a GGUF file, or --shape"),
        (["x.gguf", "--shape", "aya-8b"], "or --shape and the name of a published model, not both"),
        (["x.gguf", "--type", "Q8_0"], "--type goes with --shape: x.gguf has types of its own"),
        (["--shape", "aya-8b", "--vram", "24"], "--vram 24 is 24 bytes: write 24G for gigabytes"),
        (["--shape", "aya-8b", "--ctx", "32Q"], "'32Q' is not"),
        (
            ["--shape", "aya-8b", "--vram", "24G", "--type-k", "q8_0", "--type-v", "q4_0"],
            "--type-k and --type-v must be equal where there are cards or workers",
        ),
        (["--shape", "llama"], "there is no shape 'llama'"),
        (["--shape", "aya-8b", "--type", "Q9"], "there is no file type 'Q9'"),
        (["--shape", "aya-8b", "--vram", "big"], "--vram must be a size such as 24G, not 'big'"),
        (["--shape", "aya-8b", "--bandwidth", "9G"], "--bandwidth goes with --vram and --ram"),
        (
            ["--shape", "aya-8b", "--ram", "9G", "--bandwidth", "9G", "--bandwidth", "9G"],
            "--bandwidth is given 2 times",
        ),
        (["--shape", "aya-8b", "--ram", "64G", "--type-k", "q5_0"], "--type-k must be one of"),
        (["--shape", "aya-8b", "--ctx", "-1"], "--ctx must be 0 or more, not -1"),
        (["/absent.gguf"], "/absent.gguf: "),
    ],
)
def test_wrong_arguments(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("n_ctx is 9, outside 1..2", "--ctx is 9, outside 1..2"),
        ("/x/n_ctx/y.gguf: n_gpu_layers must be -1 or more", "/x/n_ctx/y.gguf: --gpu-layers must be -1 or more"),
        ("n_keep is for context_shift=True.", "--keep is for --context-shift."),
        ("rpc:0: a port is 1 to 65535", "rpc:0: a port is 1 to 65535"),
        ("one of q8_0, not 'type_k'", "one of q8_0, not 'type_k'"),
    ],
)
def test_what_python_says_of_arguments_is_said_of_options(said: str, shown: str) -> None:
    assert in_options(said) == shown


def test_loading_names_options_that_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    shape = dataclasses.replace(
        SHAPES["command-r-08-2024"], n_layer=8, n_embd=512, n_head=4, n_head_kv=2, n_ff=512, n_vocab=4000
    )
    write_hollow(path, shape, "Q8_0")
    monkeypatch.setattr(host, "available_memory", lambda: 100 << 20)
    assert main(["generate", str(path), "a", "--ctx", "65536"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("; this fits: --ctx 16384 --type-k q8_0 --type-v q4_0")


def test_wrong_placements_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--gpu-layers", "all"), ("--tensor-split", "1;2")):
        assert main(["generate", "x.gguf", "a", option, value]) == 2
        assert value in capsys.readouterr().err


def test_devices_state_what_is_free_and_how_fast_the_cpu_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    cpu = next(device for device in found["devices"] if device["type"] == "cpu")
    assert 0 < cpu["available"] <= cpu["memory_total"]
    assert cpu["read_bytes_per_second"] > 1e8
    assert main(["devices"]) == 0
    assert "GB/s" in capsys.readouterr().out


def test_a_missing_backend_is_named_with_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    cpu = Device("CPU", "", "", "cpu", 1, 1)
    assert [line.rpartition(": ")[2] for line in lacking([cpu])] == [
        "make ggml-cuda builds it",
        "make ggml-vulkan builds it",
    ]
    monkeypatch.setattr("commandr_gguf.cli.devices._without_flash_attention", lambda gpu: [f"card {gpu}"])
    lines = lacking([cpu, Device("CUDA0", "", "", "gpu", 1, 1)])
    assert "CUDA0: card 0" in lines
    assert not any("make ggml-cuda" in line for line in lines)
