"""Checkpoints that are damaged or contradict themselves, through the command line: one sentence that names the file and
what is wrong with it, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shapes
from convert.cli import main

ROOT = Path(__file__).parents[2]
FIRST, SECOND = (f"model-{i:05d}-of-00002.safetensors" for i in (1, 2))
INDEX = "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def write(folder: Path, shape: str = "gqa") -> Path:
    """Two layers in two shards."""
    return shapes.write_checkpoint(folder / "checkpoint", shape, n_layers=2, n_shards=2)


def arguments(folder: Path, *more: str) -> list[str]:
    return [str(folder / "checkpoint"), "-o", str(folder / "out.gguf"), "-q", *more]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def sentence_of(status: int, out: str, err: str) -> str:
    """What the command line said, once it is checked that it was one sentence and exit code 2."""
    assert (status, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").rstrip("\n")


# ---- shards


def put_folder_in_place(folder: Path) -> None:
    (folder / SECOND).unlink()
    (folder / SECOND).mkdir()


def cut_data(folder: Path) -> None:
    os.truncate(folder / SECOND, (folder / SECOND).stat().st_size - 1)


def cut_header(folder: Path) -> None:
    os.truncate(folder / SECOND, 100)


def remove(folder: Path) -> None:
    (folder / SECOND).unlink()


def name_absent_shard(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["extra.weight"] = "model-00003-of-00003.safetensors"
    (folder / INDEX).write_text(json.dumps(index))


def state_long_header(folder: Path) -> None:
    """A header of one byte more than the format allows, in a file that is long enough for it."""
    (folder / SECOND).write_bytes((100_000_001).to_bytes(8, "little") + b"{}")
    os.truncate(folder / SECOND, 200_000_000)  # sparse


def put_tensor_in_both(folder: Path) -> None:
    """The first tensor of the first shard stands in the second one as well."""
    norms = {name: ("F32", (256,), bytes(1024)) for name in (EMBEDDING, "model.norm.weight")}
    shapes.write_safetensors(folder / SECOND, norms)
    index = json.loads((folder / INDEX).read_text())
    weights = {name: file for name, file in index["weight_map"].items() if file == FIRST}
    (folder / INDEX).write_text(json.dumps(index | {"weight_map": weights | {"model.norm.weight": SECOND}}))


def put_tensor_twice_in_a_header(folder: Path) -> None:
    entry = '"model.norm.weight":{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'
    text = ("{" + entry % (0, 8) + "," + entry % (8, 16) + "}").encode()
    (folder / SECOND).write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (put_folder_in_place, "Is a directory"),
        (cut_data, "ends inside tensor model.norm.weight"),
        (cut_header, "its header does not fit in 100 bytes"),
        (remove, f"is missing; {INDEX} names it"),
        (name_absent_shard, f"model-00003-of-00003.safetensors is missing; {INDEX} names it"),
        (state_long_header, "a header of 100000001 bytes, and the format allows 100000000"),
        (put_tensor_in_both, f"holds tensor {EMBEDDING}, which {INDEX} does not place there"),
        (put_tensor_twice_in_a_header, "is not a valid safetensors file"),
    ],
)
def test_a_damaged_shard(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = write(tmp_path)
    damage(folder)
    before = files(tmp_path)
    done = run("-m", "convert", *arguments(tmp_path))
    sentence = sentence_of(done.returncode, done.stdout, done.stderr)
    assert message in sentence
    assert str(folder / SECOND) in sentence or "00003" in message
    assert files(tmp_path) == before


def test_a_shard_that_may_not_be_read(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / SECOND).chmod(0)
    if os.access(folder / SECOND, os.R_OK):
        pytest.skip("root may read every file")
    done = run("-m", "convert", *arguments(tmp_path))
    sentence = sentence_of(done.returncode, done.stdout, done.stderr)
    assert sentence == f"cannot read {folder / SECOND}: Permission denied"
    assert files(tmp_path) == [folder, *files(folder)]


# The converter in a process where the second shard fails once its header has been read.
FAILING = """
import errno, os, runpy, sys

def preadv(handle, buffers, offset, real=os.preadv, shard=os.stat({shard!r})):
    if os.path.samestat(os.fstat(handle), shard):
        {failure}
    return real(handle, buffers, offset)

os.preadv = preadv
sys.argv[0] = "convert"
runpy.run_module("convert", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            "raise OSError(errno.EIO, os.strerror(errno.EIO))",
            r"cannot read tensor model\.\S+ of {shard}: Input/output error",
        ),
        ("os.truncate({shard!r}, 2000)", r"{shard} ends inside tensor model\.\S+: it became shorter"),
    ],
)
@pytest.mark.parametrize("options", [["-t", "BF16"], ["-t", "Q8_0"], ["-t", "Q8_0", "--split-max-size", "500K"]])
def test_a_shard_that_fails_while_it_is_read(tmp_path: Path, options: list[str], failure: str, message: str) -> None:
    shard = str(write(tmp_path) / SECOND)
    before = files(tmp_path)
    program = FAILING.format(shard=shard, failure=failure.format(shard=shard))
    done = run("-c", program, *arguments(tmp_path, *options))
    sentence = sentence_of(done.returncode, done.stdout, done.stderr)
    assert re.fullmatch(message.format(shard=re.escape(shard)), sentence)
    assert files(tmp_path) == before


# ---- a config that the tensors contradict


@pytest.mark.parametrize(
    ("shape", "change", "message"),
    [
        ("gqa", {"hidden_size": 512}, f"{EMBEDDING} has the shape [768, 256], config.json calls for [768, 512]"),
        ("gqa", {"intermediate_size": 1024}, "gate_proj.weight has the shape [512, 256], config.json calls for [1024"),
        ("gqa", {"vocab_size": 769}, f"{EMBEDDING} has the shape [768, 256], config.json calls for [769, 256]"),
        ("gqa", {"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight is missing"),
        ("gqa", {"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight has no place"),
        ("gqa", {"num_attention_heads": 4}, "k_proj.weight has the shape [64, 256], config.json calls for [128, 256]"),
        ("gqa", {"num_key_value_heads": 4}, "k_proj.weight has the shape [64, 256], config.json calls for [128, 256]"),
        ("gqa", {"num_key_value_heads": None}, "has the shape [64, 256], config.json calls for [256, 256]"),
        ("gqa", {"num_key_value_heads": 3}, "num_attention_heads 8 is no multiple of num_key_value_heads 3"),
        ("gqa", {"use_qk_norm": True}, "tensor model.layers.0.self_attn.q_norm.weight is missing"),
        ("r_plus", {"use_qk_norm": False}, "q_norm.weight contradicts use_qk_norm = false"),
        (
            "r_plus",
            {"num_attention_heads": 8, "num_key_value_heads": 4},
            "q_norm.weight has the shape [4, 64], config.json calls for [8, 32]",
        ),
        ("cohere2", {"head_dim": 128}, "head_dim is 128, only hidden_size / num_attention_heads = 64"),
        ("r_plus", {"architectures": ["Cohere2ForCausalLM"], "sliding_window": 20}, "has no place in a cohere2 model"),
    ],
)
def test_a_config_that_contradicts_the_tensors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shape: str,
    change: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr("convert.cli.signal.signal", lambda *_: None)  # the handlers of pytest stay
    path = write(tmp_path, shape) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    before = files(tmp_path)
    status = main(arguments(tmp_path))
    sentence = sentence_of(status, *capsys.readouterr())
    assert message in sentence
    assert str(tmp_path / "checkpoint") in sentence or sentence.startswith("config.json: ")
    assert files(tmp_path) == before
