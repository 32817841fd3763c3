"""A model of windows alone holds what they see, however long its sequence is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import models
import shapes
from commandr_gguf import Model, Session

MEBI = 1 << 20
N_WINDOW = 256
N_TOKENS = (2048, 8192, 24576)
# What the process holds while its sequence grows: [bytes after each length, kv bytes after each].
GROW = """
import sys
from commandr_gguf import Model, Session

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

path, *lengths = sys.argv[1:]
tokens = [8 + i % 590 for i in range(int(lengths[-1]))]
with Model(path) as model, Session(model, n_ctx=len(tokens), n_ubatch=256, n_threads=1) as session:
    for n in map(int, lengths):
        session.eval(tokens[:n], logits=False, n_outputs=0)
        print(resident(), sum(use.size for use in session.memory() if use.what == "kv"))
"""


def write(folder: Path, n_layers: int) -> Path:
    """A model with 4 KiB of keys and values a token and layer, of which every fourth layer has no window."""
    heads: dict[str, Any] = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 64}
    checkpoint = shapes.write_checkpoint(
        folder / "checkpoint", "cohere2", n_layers=n_layers, sliding_window=N_WINDOW, intermediate_size=64, **heads
    )
    return models.convert(checkpoint, folder / "model.gguf", "Q8_0")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_sequence_of_many_windows_takes_no_more_memory(tmp_path: Path) -> None:
    path = write(tmp_path, 3)
    command = [sys.executable, "-c", GROW, str(path), *map(str, N_TOKENS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    resident, kv = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert len(set(kv)) == 1
    cell = 3 * 4096
    assert kv[0] < 4 * N_WINDOW * cell
    # Of each token its id and no more than a few bytes beside it; of keys and values it would be 288 MiB.
    assert resident[-1] - resident[0] < 8 * MEBI


def kv_bytes(path: Path, n_ctx: int) -> int:
    with Model(path) as model, Session(model, n_ctx=n_ctx, n_threads=1) as session:
        session.eval([8 + i % 590 for i in range(n_ctx)], logits=False, n_outputs=0)
        return sum(use.size for use in session.memory() if use.what == "kv")


def test_only_layers_without_a_window_take_more_for_a_longer_context(tmp_path: Path) -> None:
    path = write(tmp_path, 4)
    sizes = [kv_bytes(path, n_ctx) for n_ctx in (1024, 2048, 4096)]
    assert sizes[1] - sizes[0] == 1024 * 4096
    assert sizes[2] - sizes[1] == 2048 * 4096
