"""`python -m convert` as a process of its own."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader

import shapes

ROOT = Path(__file__).parents[2]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "convert", *map(str, arguments)]


def run(*arguments: object, cwd: Path | None = None, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """limit: bytes that a file may grow to, as on a full disk."""

    def set_limit() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        command(*arguments),
        cwd=cwd or ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=set_limit,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.write_checkpoint(tmp_path_factory.mktemp("cli") / "tiny-command-r", "gqa", n_layers=2)


@pytest.fixture(scope="module")
def slow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes seconds to quantize to IQ4_XS."""
    folder = tmp_path_factory.mktemp("cli") / "slow"
    return shapes.write_checkpoint(
        folder, "v01", n_layers=1, hidden_size=1024, intermediate_size=6144, num_attention_heads=8
    )


def test_default_name_and_type(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-command-r-Q4_K_M.gguf"]
    assert "wrote tiny-command-r-Q4_K_M.gguf" in done.stderr
    reader = GGUFReader(tmp_path / "tiny-command-r-Q4_K_M.gguf")
    assert reader.fields["general.file_type"].contents() == 15


def test_folder_as_output_and_quiet(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, "-o", tmp_path, "-t", "q4_k", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-command-r-Q4_K_M.gguf"]


def test_progress_without_a_terminal(checkpoint: Path, tmp_path: Path) -> None:
    lines = run(checkpoint, "-o", tmp_path / "x.gguf", "--type", "F16").stderr.splitlines()
    percents = [int(line.split("%")[0]) for line in lines if "%" in line]
    assert percents == sorted(set(percents))
    assert percents[-1] == 100
    assert "MB/s" in lines[1]
    assert "s left" in lines[1]


def test_progress_in_a_terminal(checkpoint: Path, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm"}
    arguments = command(checkpoint, "-o", tmp_path / "x.gguf")
    with subprocess.Popen(arguments, stderr=terminal, cwd=ROOT, env=environment) as process:
        os.close(terminal)
        shown = b""
        while select.select([controller], [], [], 60)[0]:
            try:
                shown += os.read(controller, 65536)
            except OSError:  # the other end is closed
                break
        assert process.wait() == 0
    os.close(controller)
    assert b"100%" in shown
    assert b"\x1b[" in shown


def test_dry_run(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, "--dry-run", "--type", "Q4_K", "--context-length", 4096, cwd=tmp_path)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["token_embd.weight", "768", "x", "256", "BF16", "->", "Q6_K", "157.5", "KiB"]
    assert len(lines) == 1 + 2 * 8 + 1 + 1
    assert lines[-1].startswith("command-r Q4_K_M: 18 tensors (")
    assert lines[-1].endswith("bits per weight, context length 4096")


def test_dry_run_into_a_closed_pipe(checkpoint: Path) -> None:
    with subprocess.Popen(command(checkpoint, "--dry-run"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["CHECKPOINT", "--type", "Q9"], "unknown type 'Q9'"),
        (["CHECKPOINT", "--threads", "many"], "'many' is not a number of threads"),
        (["CHECKPOINT", "--context-length", "0"], "context length"),
        (["CHECKPOINT", "-o", "no/such/folder/x.gguf"], "make it first"),
        (["CHECKPOINT", "-o", "CHECKPOINT/model.safetensors", "--force"], "is a file of the checkpoint itself"),
        (["CHECKPOINT", "--typo"], "unrecognized arguments: --typo"),
        ([], "checkpoint"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(
    checkpoint: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run(*(argument.replace("CHECKPOINT", str(checkpoint)) for argument in arguments), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def damage_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 100)


def swap_names(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"self_attn.q_proj", b"self_attn.q_porj"))


def forget_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_config, "config.json: hidden_act is 'relu'"),
        (truncate, "ends inside tensor model.norm.weight"),
        (swap_names, "tensor model.layers.0.self_attn.q_proj.weight is missing"),
        (forget_tokenizer, "tokenizer.json is missing"),
    ],
)
def test_damaged_checkpoints_exit_2(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = shapes.write_checkpoint(tmp_path / "c", "gqa", n_layers=1)
    damage(folder)
    done = run(folder, "-o", tmp_path / "x.gguf")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_force_replaces(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.gguf"
    output.write_text("old")
    refused = run(checkpoint, "-o", output)
    assert (refused.returncode, output.read_text()) == (2, "old")
    assert "exists: give --force to replace it" in refused.stderr
    assert run(checkpoint, "-o", output, "--force").returncode == 0
    assert output.read_bytes()[:4] == b"GGUF"


@pytest.mark.parametrize("limit", [1000, 100_000, 1_000_000])
def test_file_that_may_not_grow(checkpoint: Path, tmp_path: Path, limit: int) -> None:
    output = tmp_path / "x.gguf"
    output.write_text("old")
    done = run(checkpoint, "-o", output, "--force", "--type", "F32", limit=limit)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: cannot write {output}: File too large; nothing was written there"
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]
    assert output.read_text() == "old"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals(slow_checkpoint: Path, tmp_path: Path, number: signal.Signals, status: int) -> None:
    arguments = command(slow_checkpoint, "-o", tmp_path / "x.gguf", "--type", "IQ4_XS", "--threads", 1)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("x.gguf.part")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == status
    assert said.endswith("stopped before the file was whole: nothing was written\n")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_size_without_a_unit_is_not_taken_for_bytes(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, "-o", tmp_path / "x.gguf", "--split-max-size", "5")
    assert done.returncode == 2
    assert "'5' is not a size such as 20GB" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_tensor_larger_than_the_size_of_a_file_is_told(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, "-o", tmp_path / "x.gguf", "--split-max-size", "100KB", "--type", "Q8_0")
    assert done.returncode == 0
    assert "is larger than 97.7 KiB: its first tensor alone is" in done.stderr


def test_ignored_hang_up_stays_ignored(slow_checkpoint: Path, tmp_path: Path) -> None:
    """As under nohup."""
    arguments = ["nohup", *command(slow_checkpoint, "-o", tmp_path / "x.gguf", "--type", "IQ4_XS", "--threads", 1)]
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    ) as process:
        while not (tmp_path / "x.gguf.part").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        process.communicate()
    assert process.returncode == 0
    assert (tmp_path / "x.gguf").exists()
